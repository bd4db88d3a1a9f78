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

from alignment.files import whole_folder
from alignment.models import ModelConfig, load_tokenizer, resolve
from alignment.runs import RunFolder
from alignment.scratch import ScratchConfig, llama_config, new_model, train_tokenizer
from alignment.sft_config import SFTConfig
from alignment.sft_data import (
    Rows,
    prepare,
    read_data,
    texts_of,
)
from alignment.sft_losses import kept_losses
from alignment.sft_trainer import build_trainer, training_table

if TYPE_CHECKING:
    from alignment.sft_evaluation import AnswerTrainer


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


def fit(trainer: AnswerTrainer, run: RunFolder, checkpoint: Path | None) -> dict[str, Any]:
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
    taught = hasattr(trainer, "divergence")  # from a teacher
    before = trainer.divergence(trainer.eval_dataset[HELD_OUT]) if taught else None
    started = time.perf_counter()
    result = train_with_progress(trainer, run, "sft", checkpoint)
    seconds = time.perf_counter() - started
    held_out = trainer.evaluate(trainer.eval_dataset[HELD_OUT])
    if forgetting:
        forgetting.see(math.log(perplexity(trainer, GENERAL)), result.global_step)
    if tasks:
        tasks.see(result.global_step)
    after = trainer.divergence(trainer.eval_dataset[HELD_OUT]) if taught else None
    tokens = trainer.state.num_input_tokens_seen
    run.log({"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}, "timings.jsonl")
    return {
        "steps": result.global_step,
        "loss": next(row["loss"] for row in reversed(trainer.state.log_history) if "loss" in row),
        "held_out_loss": held_out["eval_loss"],
        **(forgetting.figures() if forgetting else {}),
        **(tasks.figures() if tasks else {}),
        **({"teacher_divergence_before": before, "teacher_divergence": after} if taught else {}),
        "tokens": tokens,
        "parameters": trainer.model.num_parameters(),
        "trainable_share": trainable_share(trainer.model),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }


def plan(config: SFTConfig) -> dict[str, Any]:
    """Steps, tokens and memory of a run, for --dry-run. Reads the data; loads no weights."""
    from alignment.footprint import GIB, footprint
    from alignment.tuning.config import TuningConfig

    rows = read_data(config)
    with start(config, rows, weights=False) as model:
        data = prepare(config, rows, load_tokenizer(model.path))
        train, steps = training_table(config, data)
        lengths = [len(ids) for ids in train["input_ids"]]
        size = footprint(model.path, model.dtype, config.tuning, rows=config.microbatch, tokens=max(lengths))
    teacher = config.teacher and footprint(
        config.teacher.path, config.teacher.dtype, TuningConfig(method="full"), rows=1, tokens=8
    )
    return {
        "model": resolve(config.model.path) if config.model else "new",
        "examples": f"{data.examples} to train on, {len(data.held_out)} held out, {len(data.dropped)} left out",
        **({"packed": f"into {len(train)} rows"} if config.packing else {}),
        "optimizer steps": steps,
        **({"stages": ", then ".join(map(str, data.stages))} if config.stages else {}),
        "tokens": round(sum(lengths) / len(lengths) * steps * config.batch_size),
        "longest": f"{max(lengths)} tokens",
        **size.plan(),
        **({"teacher": f"{teacher.weight_bytes / GIB:.2f} GiB of weights besides"} if teacher else {}),
    }
