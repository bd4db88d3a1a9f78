"""TRL's trainer for SFT as a config asks for it: the model and its tuning, the rows, and what is watched meanwhile."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from alignment.console import note
from alignment.errors import AlignmentError
from alignment.models import ModelConfig, context_length, is_adapter, load_policy, resolve
from alignment.runs import RunFolder
from alignment.sft_config import SFTConfig
from alignment.sft_data import Encoded, SFTData, encode, read_examples, read_some

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig as Arguments

    from alignment.sft_evaluation import AnswerTrainer
    from alignment.sft_tasks import Tasks


def build_trainer(
    config: SFTConfig, model: ModelConfig, tokenizer: PreTrainedTokenizerBase, data: SFTData, run: RunFolder
) -> AnswerTrainer:
    """Ready for its first step. Raises AlignmentError if model, teacher or what is to be watched do not fit."""
    from alignment.sft_evaluation import AnswerTrainer
    from alignment.sft_monitor import GENERAL, HELD_OUT
    from alignment.sft_tasks import read_tasks
    from alignment.tuning.training import prepare as prepare_tuning

    train, steps = training_table(config, data)
    watched = {HELD_OUT: table(data.held_out)}
    if config.general:
        watched[GENERAL] = table(general_examples(config.general, tokenizer, config.max_length))
    tasks = read_tasks(config.general_tasks, tokenizer, config.max_length) if config.general_tasks else None
    parts = {
        "model": load_student(config, model),
        "args": arguments(config, run, steps),
        "processing_class": tokenizer,
        "train_dataset": train,
        "eval_dataset": watched,
    }
    if config.teacher:
        from alignment.sft_teacher import DistillationTrainer, load_teacher

        teacher = load_teacher(config.teacher, tokenizer)
        trainer: AnswerTrainer = DistillationTrainer(
            **parts, teacher=teacher, beta=config.teacher.beta, on_policy=config.teacher.on_policy
        )
    else:
        trainer = AnswerTrainer(**parts)
    watch(trainer, config, tasks, run)
    prepare_tuning(trainer, config.tuning, "sft")
    return trainer


def load_student(config: SFTConfig, model: ModelConfig) -> PreTrainedModel:
    """The model with the weights free that `tuning` trains."""
    from alignment.tuning.apply import apply_tuning, training_dtype

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
        return policy
    return apply_tuning(policy, config.tuning, "CAUSAL_LM")


def arguments(config: SFTConfig, run: RunFolder, steps: int) -> Arguments:
    from trl import SFTConfig as Arguments

    from alignment.sft_monitor import HELD_OUT
    from alignment.trainer_progress import quiet_arguments

    return Arguments(
        output_dir=str(run.checkpoints),
        seed=config.seed,
        max_steps=steps,
        train_sampling_strategy="sequential" if config.sequential else "random",
        per_device_train_batch_size=config.microbatch,
        per_device_eval_batch_size=config.microbatch,
        gradient_accumulation_steps=config.batch_size // config.microbatch,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(config.warmup * steps),
        weight_decay=0.0,
        max_length=config.max_length if config.packing else None,
        packing=config.packing,
        dataset_kwargs={"skip_prepare_dataset": True},  # tokenized here, so that what is left out is counted
        logging_steps=max(1, steps // 50),
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


def watch(trainer: AnswerTrainer, config: SFTConfig, tasks: Tasks | None, run: RunFolder) -> None:
    """Have `trainer` stop in time, and see what is forgotten."""
    from transformers import PrinterCallback

    from alignment.sft_monitor import Forgetting, Patience, TaskForgetting
    from alignment.sft_tasks import measure

    trainer.remove_callback(PrinterCallback)
    if config.patience:
        trainer.add_callback(Patience(config.patience))
    if config.general:
        trainer.add_callback(Forgetting(config.forgetting_alarm))
    if tasks:
        model = trainer.accelerator.unwrap_model(trainer.model)
        measured = partial(measure, model, trainer.processing_class, tasks, config.microbatch)
        trainer.add_callback(TaskForgetting(measured, run, config.tasks_alarm))


def training_table(config: SFTConfig, data: SFTData) -> tuple[Dataset, int]:
    """The rows to train on, packed if the config says so, and the optimizer steps."""
    rows = table(data.train)
    if not config.packing:
        return rows, data.steps
    from trl import pack_dataset

    rows = pack_dataset(rows, config.max_length, "bfd")
    once = config.epochs if len(data.shares) == 1 else 1  # a mixture holds all epochs
    return rows, config.max_steps or max(1, round(once * len(rows) / config.batch_size))


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
