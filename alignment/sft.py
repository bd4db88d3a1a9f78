"""`align sft`: supervised fine-tuning on answers, from a given model or from nothing."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from alignment.config import Section
from alignment.console import note
from alignment.errors import AlignmentError
from alignment.files import whole_folder, write_text
from alignment.models import (
    ModelConfig,
    base_of,
    from_pretrained,
    is_adapter,
    load_policy,
    load_tokenizer,
    resolve,
)
from alignment.prompts import read_rows
from alignment.runs import RunFolder
from alignment.scratch import ScratchConfig, llama_config, new_model, train_tokenizer
from alignment.sft_data import Dropped, Encoded, encode, read_examples
from alignment.tuning.config import TuningConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase
    from trl import SFTTrainer


class SFTConfig(Section):
    """`align sft`: a model learns to give the answers in `data`. The loss is on the answers only."""

    run: str = Field(description="run folder, e.g. runs/sft")
    seed: int = 0
    model: ModelConfig | None = Field(None, description="the model to start from; or give `scratch`")
    scratch: ScratchConfig | None = Field(None, description="start from a new small model of this shape")
    data: str = Field(description="JSONL or Parquet with `prompt` and `completion`, or `messages`")
    held_out: int = Field(256, ge=1, description="examples kept for the held-out loss, at most a tenth")
    tuning: TuningConfig = Field(
        TuningConfig(), description="which weights are trained; a new model is tuned in full"
    )

    epochs: float = Field(1.0, gt=0, description="passes over the data")
    max_steps: int | None = Field(None, ge=1, description="stop after so many optimizer steps instead")
    batch_size: int = Field(32, ge=1, description="examples an optimizer step")
    microbatch: int = Field(8, ge=1, description="examples a forward; a matter of memory and speed only")
    learning_rate: float = Field(1e-4, gt=0, description="peak; LoRA likes 1e-4, full tuning 1e-5")
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps in which the rate rises")
    max_length: int = Field(1024, ge=8, description="tokens; longer examples are left out and counted")

    @model_validator(mode="after")
    def consistent(self) -> SFTConfig:
        if (self.model is None) == (self.scratch is None):
            raise ValueError("give exactly one of `model` (start from it) and `scratch` (a new small model)")
        if self.scratch and "tuning" not in self.model_fields_set:
            self.tuning = TuningConfig(method="full")
        if self.scratch and self.tuning.method != "full":
            raise ValueError("a new model has nothing to adapt: set tuning.method=full")
        if self.scratch and self.max_length > self.scratch.max_length:
            raise ValueError(
                f"max_length ({self.max_length}) exceeds the new model's scratch.max_length "
                f"({self.scratch.max_length})"
            )
        if self.batch_size % self.microbatch:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of microbatch ({self.microbatch})"
            )
        return self


@dataclass(frozen=True)
class SFTData:
    """What is trained on, what the held-out loss is measured on, what was left out."""

    train: list[Encoded]
    held_out: list[Encoded]
    dropped: list[Dropped]


def train_sft(config: SFTConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Runs SFT; the model lands in `run`/model. Returns the figures of summary.json.

    Raises AlignmentError for a run that exists, data that cannot be read or holds nothing to train on.
    """
    from transformers import set_seed

    rows = read_data(config)
    run = RunFolder.create(Path(config.run), config, overwrite=overwrite)
    set_seed(config.seed)
    with TemporaryDirectory() as start:
        if config.scratch:
            new_model(config.scratch, texts_of(rows), Path(start) / "new", config.seed)
        model = config.model or ModelConfig(path=str(Path(start) / "new"))
        tokenizer = load_tokenizer(model.path)
        data = prepare(config, rows, tokenizer)
        report_dropped(run, data.dropped)
        trainer = build_trainer(config, model, tokenizer, data, run)
    return train(trainer, tokenizer, data, run)


def read_data(config: SFTConfig) -> list[dict[str, Any]]:
    rows = read_rows(Path(config.data))
    if not rows:
        raise AlignmentError(f"{config.data} is empty: it needs rows with `prompt` and `completion`")
    return rows


def texts_of(rows: list[dict[str, Any]]) -> list[str]:
    """What a new tokenizer learns from."""
    return [
        message["content"]
        for _, example in read_examples(rows, "data")
        for message in example.prompt + example.completion
    ]


def prepare(config: SFTConfig, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> SFTData:
    """Examples in tokens, a seeded choice of them held out."""
    import random

    kept, dropped = encode(read_examples(rows, config.data), tokenizer, config.max_length)
    if len(kept) < 2:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in Counter(d.reason for d in dropped).items())
        raise AlignmentError(
            f"{config.data}: {len(kept)} of {len(rows)} rows can be trained on, at least 2 are needed"
            + (f" ({reasons})" if reasons else "")
        )
    random.Random(config.seed).shuffle(kept)
    held_out = min(config.held_out, max(1, len(kept) // 10))
    return SFTData(kept[held_out:], kept[:held_out], dropped)


def report_dropped(run: RunFolder, dropped: list[Dropped]) -> None:
    for reason, count in Counter(d.reason for d in dropped).items():
        note(f"sft: left out {count} examples: {reason}")
    if dropped:
        write_text(run.path / "dropped.jsonl", "".join(json.dumps(asdict(d)) + "\n" for d in dropped))


def build_trainer(
    config: SFTConfig, model: ModelConfig, tokenizer: PreTrainedTokenizerBase, data: SFTData, run: RunFolder
) -> SFTTrainer:
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig as Arguments
    from trl import SFTTrainer

    from alignment.trainer_progress import quiet_arguments
    from alignment.tuning.apply import apply_tuning

    qlora = config.tuning.method == "qlora"
    policy = load_policy(model.path, model.dtype, four_bit=qlora, trainable=True)
    if not is_adapter(resolve(model.path)):  # an adapter goes on learning itself
        policy = apply_tuning(policy, config.tuning, "CAUSAL_LM")
    steps = step_count(config, len(data.train))
    arguments = Arguments(
        output_dir=str(run.checkpoints),
        seed=config.seed,
        max_steps=steps,
        per_device_train_batch_size=config.microbatch,
        per_device_eval_batch_size=config.microbatch,
        gradient_accumulation_steps=config.batch_size // config.microbatch,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(config.warmup * steps),
        weight_decay=0.0,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},  # tokenized here, so that what is left out is counted
        logging_steps=max(1, steps // 50),
        save_strategy="no",
        **quiet_arguments(),
    )
    trainer = SFTTrainer(
        model=policy,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([asdict(e) for e in data.train]),
        eval_dataset=Dataset.from_list([asdict(e) for e in data.held_out]),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def train(
    trainer: SFTTrainer, tokenizer: PreTrainedTokenizerBase, data: SFTData, run: RunFolder
) -> dict[str, Any]:
    from alignment.trainer_progress import RunProgress
    from alignment.tuning.apply import trainable_share

    started = time.monotonic()
    with RunProgress(run, "sft") as progress:
        trainer.add_callback(progress)
        result = trainer.train()
        seconds = time.monotonic() - started
        held_out = trainer.evaluate()
    with whole_folder(run.model) as aside:
        trainer.model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    tokens = int(held_out["eval_num_tokens"])  # TRL counts the training tokens so far, padding not among them
    run.log(
        {"step": result.global_step, "seconds": seconds, "tokens_per_second": tokens / seconds},
        "timings.jsonl",
    )
    figures = {
        "steps": result.global_step,
        "loss": result.training_loss,
        "held_out_loss": held_out["eval_loss"],
        "examples": len(data.train),
        "held_out": len(data.held_out),
        "dropped": len(data.dropped),
        "tokens": tokens,
        "parameters": trainer.model.num_parameters(),
        "trainable_share": trainable_share(trainer.model),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }
    run.summarize(figures)
    return figures


def step_count(config: SFTConfig, examples: int) -> int:
    return config.max_steps or max(1, round(config.epochs * examples / config.batch_size))


def plan(config: SFTConfig) -> dict[str, Any]:
    """What `train_sft` would do, for --dry-run. Reads the data; loads no weights."""
    rows = read_data(config)
    tokenizer: PreTrainedTokenizerBase
    if config.model:
        from transformers import AutoConfig

        tokenizer = load_tokenizer(config.model.path)
        shape = from_pretrained(AutoConfig, base_of(resolve(config.model.path)))
    else:
        scratch = config.scratch or ScratchConfig()
        tokenizer = train_tokenizer(texts_of(rows), scratch.vocab_size)
        shape = llama_config(scratch, tokenizer)
    data = prepare(config, rows, tokenizer)
    steps = step_count(config, len(data.train))
    tokens = sum(len(e.input_ids) for e in data.train)
    longest = max(len(e.input_ids) for e in data.train)
    parameters, trained = count_parameters(config, shape)
    return {
        "steps": steps,
        "examples": f"{len(data.train)} to train on, {len(data.held_out)} held out, {len(data.dropped)} left out",
        "tokens": round(tokens * steps * config.batch_size / len(data.train)),
        "longest": f"{longest} tokens",
        "parameters": f"{parameters:,}, of which {trained:,} are trained ({trained / parameters:.1%})",
        "memory": f"about {memory(config, shape, parameters, trained, longest) / 2**30:.1f} GiB",
    }


def count_parameters(config: SFTConfig, shape: PretrainedConfig) -> tuple[int, int]:
    """(all, trained), counted on a model without storage."""
    import torch
    from transformers import AutoModelForCausalLM

    from alignment.tuning.apply import apply_tuning

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
        model = apply_tuning(model, config.tuning, "CAUSAL_LM")
    return model.num_parameters(), model.num_parameters(only_trainable=True)


def memory(config: SFTConfig, shape: PretrainedConfig, parameters: int, trained: int, longest: int) -> float:
    """Bytes, roughly: weights, gradients and Adam's moments, activations, the logits of a microbatch."""
    from alignment.models import torch_dtype

    dtype = config.model.dtype if config.model else "auto"
    per_weight = 0.6 if config.tuning.method == "qlora" else torch_dtype(dtype).itemsize
    tokens = config.microbatch * longest
    # about 34 bytes a token, layer and unit of width at 2 bytes a number (Korthikanti et al. 2022)
    activations = tokens * shape.num_hidden_layers * shape.hidden_size * 17 * torch_dtype(dtype).itemsize
    return parameters * per_weight + 12 * trained + activations + 8 * tokens * shape.vocab_size
