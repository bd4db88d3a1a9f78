"""`align sft`: supervised fine-tuning on answers, from a given model or from nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from alignment.console import note
from alignment.errors import AlignmentError
from alignment.files import whole_folder
from alignment.models import ModelConfig, context_length, is_adapter, load_policy, load_tokenizer, resolve
from alignment.runs import RunFolder
from alignment.scratch import ScratchConfig, llama_config, new_model, train_tokenizer
from alignment.sft_config import SFTConfig
from alignment.sft_data import (
    Encoded,
    Rows,
    SFTData,
    encode,
    prepare,
    read_data,
    read_examples,
    read_some,
    texts_of,
)
from alignment.sft_losses import kept_losses

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase
    from trl import SFTTrainer


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
        base_losses = partial(
            kept_losses, model, config.tuning.bits, folder=run.path.parent / ".losses", rows=config.microbatch
        )
        data = prepare(config, rows, tokenizer, base_losses)
        left_out = run.log_rejects(map(asdict, data.dropped), "sft", "examples")
        trainer = build_trainer(config, model, tokenizer, data, run)
    figures = fit(trainer, run, checkpoint) | {
        "examples": data.examples,
        "held_out": len(data.held_out),
        "left_out": left_out,
        **({"shares": data.shares} if len(data.shares) > 1 and not config.stages else {}),
        **({"stages": [asdict(stage) for stage in data.stages]} if config.stages else {}),
    }
    with whole_folder(run.model) as folder:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    run.summarize(figures)
    return figures


@contextmanager
def start(config: SFTConfig, rows: Rows, *, weights: bool = True) -> Iterator[ModelConfig]:
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


def build_trainer(
    config: SFTConfig, model: ModelConfig, tokenizer: PreTrainedTokenizerBase, data: SFTData, run: RunFolder
) -> SFTTrainer:
    from transformers import EarlyStoppingCallback, PrinterCallback
    from trl import SFTConfig as Arguments
    from trl import SFTTrainer

    from alignment.sft_monitor import GENERAL, HELD_OUT, Forgetting, TaskForgetting
    from alignment.sft_tasks import measure, read_tasks
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
    watched = {HELD_OUT: table(data.held_out)}
    if config.general:
        watched[GENERAL] = table(general_examples(config.general, tokenizer, config.max_length))
    tasks = read_tasks(config.general_tasks, tokenizer, config.max_length) if config.general_tasks else None
    arguments = Arguments(
        output_dir=str(run.checkpoints),
        seed=config.seed,
        max_steps=data.steps,
        train_sampling_strategy="sequential" if config.sequential else "random",
        per_device_train_batch_size=config.microbatch,
        per_device_eval_batch_size=config.microbatch,
        gradient_accumulation_steps=config.batch_size // config.microbatch,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(config.warmup * data.steps),
        weight_decay=0.0,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},  # tokenized here, so that what is left out is counted
        logging_steps=max(1, data.steps // 50),
        include_num_input_tokens_seen="non_padding",
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=2,
        neftune_noise_alpha=config.neftune,
        eval_strategy="steps" if config.patience or config.general else "no",
        eval_steps=config.save_every,
        load_best_model_at_end=config.patience is not None,
        metric_for_best_model=f"eval_{HELD_OUT}_loss" if config.patience else None,
        greater_is_better=False,
        **quiet_arguments(),
    )
    trainer = SFTTrainer(
        model=policy,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=table(data.train),
        eval_dataset=watched,
    )
    trainer.remove_callback(PrinterCallback)
    if config.patience:
        trainer.add_callback(EarlyStoppingCallback(config.patience))
    if config.general:
        trainer.add_callback(Forgetting(config.forgetting_alarm))
    if tasks:
        unwrapped = trainer.accelerator.unwrap_model(trainer.model)
        measured = partial(measure, unwrapped, tokenizer, tasks, config.microbatch)
        trainer.add_callback(TaskForgetting(measured, run, config.tasks_alarm))
    prepare_tuning(trainer, config.tuning, "sft")
    return trainer


def table(examples: list[Encoded]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_list([{"input_ids": one.input_ids, "labels": one.labels} for one in examples])


def general_examples(path: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
    """Raises AlignmentError if none of the rows at `path` fits."""
    kept, dropped = encode(read_examples(read_some(path), path), tokenizer, max_length)
    if dropped:
        note(f"sft: left out {len(dropped)} rows of `general`: {dropped[0].reason} and the like")
    if not kept:
        raise AlignmentError(f"{path}: no row of `general` can be used ({dropped[0].reason})")
    return kept


def fit(trainer: SFTTrainer, run: RunFolder, checkpoint: Path | None) -> dict[str, Any]:
    """Trains and returns what was measured."""
    from alignment.sft_monitor import GENERAL, HELD_OUT, Forgetting, TaskForgetting, perplexity
    from alignment.trainer_progress import train_with_progress
    from alignment.tuning.apply import trainable_share

    callbacks = trainer.callback_handler.callbacks
    forgetting = next((c for c in callbacks if isinstance(c, Forgetting)), None)
    tasks = next((c for c in callbacks if isinstance(c, TaskForgetting)), None)
    if forgetting:
        forgetting.begin(trainer)
    if tasks:
        tasks.begin()
    started = time.perf_counter()
    result = train_with_progress(trainer, run, "sft", checkpoint)
    seconds = time.perf_counter() - started
    held_out = trainer.evaluate(trainer.eval_dataset[HELD_OUT])
    if forgetting:
        forgetting.see(math.log(perplexity(trainer, GENERAL)), result.global_step)
    if tasks:
        tasks.see(result.global_step)
    tokens = trainer.state.num_input_tokens_seen
    run.log({"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}, "timings.jsonl")
    return {
        "steps": result.global_step,
        "loss": next(row["loss"] for row in reversed(trainer.state.log_history) if "loss" in row),
        "held_out_loss": held_out["eval_loss"],
        **(forgetting.figures() if forgetting else {}),
        **(tasks.figures() if tasks else {}),
        "tokens": tokens,
        "parameters": trainer.model.num_parameters(),
        "trainable_share": trainable_share(trainer.model),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }


def plan(config: SFTConfig) -> dict[str, Any]:
    """Steps, tokens and memory of a run, for --dry-run. Reads the data; loads no weights."""
    from alignment.footprint import footprint

    rows = read_data(config)
    with start(config, rows, weights=False) as model:
        data = prepare(config, rows, load_tokenizer(model.path))
        lengths = [len(e.input_ids) for e in data.train]
        size = footprint(model.path, model.dtype, config.tuning, rows=config.microbatch, tokens=max(lengths))
    return {
        "model": resolve(config.model.path) if config.model else "new",
        "examples": f"{data.examples} to train on, {len(data.held_out)} held out, {len(data.dropped)} left out",
        "optimizer steps": data.steps,
        **({"stages": ", then ".join(map(str, data.stages))} if config.stages else {}),
        "tokens": round(sum(lengths) / len(lengths) * data.steps * config.batch_size),
        "longest": f"{max(lengths)} tokens",
        **size.plan(),
    }
