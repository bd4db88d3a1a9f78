"""`align sft`: supervised fine-tuning on answers, from a given model or from nothing."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from alignment.config import Section
from alignment.console import note
from alignment.errors import AlignmentError
from alignment.files import whole_folder
from alignment.models import ModelConfig, context_length, is_adapter, load_policy, load_tokenizer, resolve
from alignment.prompts import read_rows
from alignment.runs import RunFolder
from alignment.scratch import ScratchConfig, llama_config, new_model, train_tokenizer
from alignment.sft_data import Dropped, Encoded, encode, read_examples
from alignment.tuning.config import TuningConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
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
    save_every: int = Field(500, ge=1, description="optimizer steps between checkpoints for --resume")

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


def train_sft(config: SFTConfig, *, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Train, measure the held-out loss and save; the model lands in `run`/model.

    Returns the figures of summary.json. Raises AlignmentError for anything that the user can mend.
    """
    from transformers import set_seed

    from alignment.trainer_resume import open_run

    rows = read_data(config)
    run, checkpoint = open_run(Path(config.run), config, "sft", overwrite=overwrite, resume=resume)
    set_seed(config.seed)  # new adapters are drawn from the global generator
    with start(config, rows) as model:
        tokenizer = load_tokenizer(model.path)
        data = prepare(config, rows, tokenizer)
        left_out = run.log_rejects(map(asdict, data.dropped), "sft", "examples")
        trainer = build_trainer(config, model, tokenizer, data, run)
    figures = fit(trainer, run, checkpoint) | {
        "examples": len(data.train),
        "held_out": len(data.held_out),
        "left_out": left_out,
    }
    with whole_folder(run.model) as folder:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    run.summarize(figures)
    return figures


@contextmanager
def start(config: SFTConfig, rows: list[dict[str, Any]], *, weights: bool = True) -> Iterator[ModelConfig]:
    """The model to start from. A new one lies in a temporary folder, without weights if they are not asked for."""
    if config.model:
        yield config.model
        return
    shape = config.scratch or ScratchConfig()
    with TemporaryDirectory() as folder:
        if weights:
            new_model(shape, texts_of(rows), Path(folder) / "new", config.seed)
        else:
            tokenizer = train_tokenizer(texts_of(rows), shape.vocab_size)
            tokenizer.save_pretrained(Path(folder) / "new")
            llama_config(shape, tokenizer).save_pretrained(Path(folder) / "new")
        yield ModelConfig(path=str(Path(folder) / "new"))


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


def build_trainer(
    config: SFTConfig, model: ModelConfig, tokenizer: PreTrainedTokenizerBase, data: SFTData, run: RunFolder
) -> SFTTrainer:
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig as Arguments
    from trl import SFTTrainer

    from alignment.trainer_progress import quiet_arguments
    from alignment.tuning.apply import apply_tuning, training_dtype
    from alignment.tuning.training import prepare as prepare_tuning

    path = resolve(model.path)
    if is_adapter(path) and config.tuning.method == "full":
        raise AlignmentError(
            f"{path} is an adapter: SFT goes on with it under tuning.method=lora or qlora; "
            "for full tuning start from a whole model"
        )
    policy = load_policy(
        path,
        training_dtype(model.dtype, config.tuning),
        four_bit=config.tuning.bits == 4,
        eight_bit=config.tuning.bits == 8,
        trainable=True,
    )
    if config.max_length > context_length(policy):
        raise AlignmentError(
            f"max_length={config.max_length} exceeds the model's context of {context_length(policy)} tokens: lower it"
        )
    if is_adapter(path):
        note(f"sft: going on with the adapter {path}, which keeps its own rank and layers")
    else:
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
        include_num_input_tokens_seen="non_padding",
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=2,
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
    prepare_tuning(trainer, config.tuning, "sft")
    return trainer


def fit(trainer: SFTTrainer, run: RunFolder, checkpoint: Path | None) -> dict[str, Any]:
    """Trains and returns what was measured."""
    from alignment.trainer_progress import train_with_progress
    from alignment.tuning.apply import trainable_share

    started = time.perf_counter()
    result = train_with_progress(trainer, run, "sft", checkpoint)
    seconds = time.perf_counter() - started
    held_out = trainer.evaluate()
    tokens = trainer.state.num_input_tokens_seen
    run.log({"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}, "timings.jsonl")
    return {
        "steps": result.global_step,
        "loss": next(row["loss"] for row in reversed(trainer.state.log_history) if "loss" in row),
        "held_out_loss": held_out["eval_loss"],
        "tokens": tokens,
        "parameters": trainer.model.num_parameters(),
        "trainable_share": trainable_share(trainer.model),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }


def step_count(config: SFTConfig, examples: int) -> int:
    return config.max_steps or max(1, round(config.epochs * examples / config.batch_size))


def plan(config: SFTConfig) -> dict[str, Any]:
    """Steps, tokens and memory of a run, for --dry-run. Reads the data; loads no weights."""
    from alignment.footprint import footprint

    rows = read_data(config)
    with start(config, rows, weights=False) as model:
        data = prepare(config, rows, load_tokenizer(model.path))
        lengths = [len(e.input_ids) for e in data.train]
        size = footprint(model.path, model.dtype, config.tuning, rows=config.microbatch, tokens=max(lengths))
    steps = step_count(config, len(data.train))
    return {
        "model": resolve(config.model.path) if config.model else "new",
        "examples": f"{len(data.train)} to train on, {len(data.held_out)} held out, {len(data.dropped)} left out",
        "optimizer steps": steps,
        "tokens": round(sum(lengths) / len(lengths) * steps * config.batch_size),
        "longest": f"{max(lengths)} tokens",
        **size.plan(),
    }
