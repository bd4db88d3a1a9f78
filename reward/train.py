"""Training a reward model from a preference dataset, end to end: tokens, steps, folder, card."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reward.card import RewardCard
from reward.config import RewardConfig
from reward.errors import RewardError
from reward.labels import LabelModel, with_raters
from reward.measure import measure
from reward.members import is_adapted
from reward.model import add_member, save
from reward.pairs import (
    Reject,
    of_aspect,
    refuse_all_ties,
    tokenize_pairs,
    usable,
    with_column,
    with_mean_weight_one,
)
from reward.shared_prompt import shares_prompts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

SEED_STEP = 1_000_003  # between members: far enough that runs with neighbouring seeds share none
# bytes of the mask that says who sees whom in rows that share a prompt: it grows with their square
LARGEST_MASK = 1 << 30


def train_reward(
    config: RewardConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    test: Dataset | None,
    output_dir: Path | None,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    reject: Reject | None = None,
    data_hash: str | None = None,
    prepare: Callable[[Trainer], None] | None = None,
) -> dict[str, Any]:
    """Train `model` (from `reward.model.from_base`, whole or wrapped by PEFT) on preference pairs.

    train, test: preference datasets (prompt, chosen, rejected, p_chosen, margin, weight, source, group).
    output_dir: receives the model or adapter, the tokenizer and `reward.json`; write it aside if a
    half-written folder could be taken for a whole one. None keeps nothing but the figures.
    reject: is given a row for each pair left out, with the reason; the figures count them too.
    prepare: is given the trainer before its first step, to set what a tuning method needs.
    Returns the figures of the card. Raises RewardError if no pair is left or training diverged.
    """
    left_out: Counter[str] = Counter()

    def count(row: dict[str, Any]) -> None:
        left_out[row["reason"]] += 1
        if reject:
            reject(row)

    def prepared(pairs: Dataset, split: str) -> Dataset:
        found = usable(pairs, split=split, reject=count)
        return tokenize_pairs(
            found, tokenizer, config.max_length, split=split, reject=count, too_long=config.too_long
        )

    pairs = prepared(train, "train")
    refuse_all_ties(pairs)
    held_out = prepared(test, "test") if test is not None and len(test) else None
    if (config.members > 1 or len(config.aspects) > 1) and not is_adapted(model):
        raise RewardError("several members share one base as adapters: use tuning.method=lora or qlora")
    lessons = [prepared(of_aspect(train, name), f"train ({name})") for name in config.aspects]
    for number, lesson in enumerate(lessons or [pairs] * config.members):
        settings = config.model_copy(update={"seed": config.seed + number * SEED_STEP})
        if number:
            add_member(model, number, settings.seed)
        weighted = with_mean_weight_one(lesson, config.source_weights)
        learned = fit(settings, model, tokenizer, weighted, callbacks, prepare)

    card = RewardCard(
        **measure(
            model, tokenizer, pairs, held_out, batch_tokens=32 * config.max_length, aspects=config.aspects
        ),
        train_pairs=len(pairs),
        left_out=dict(left_out),
        truncated=sum(cut > 0 for part in (pairs, held_out) if part is not None for cut in part["cut"]),
        labels=learned.figures(),
        max_length=config.max_length,
        data=data_hash,
    )
    if output_dir:
        save(model, tokenizer, output_dir)
        card.write(output_dir)
    return card.model_dump()


def fit(
    config: RewardConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Dataset,
    callbacks: Sequence[TrainerCallback] = (),
    prepare: Callable[[Trainer], None] | None = None,
) -> LabelModel:
    """The optimizer steps over tokenized pairs; `model` is trained in place. Returns what was learned of the raters."""
    import trl
    from transformers import PrinterCallback

    from reward.trainer import PairCollator, PairTrainer

    on_gpu = torch.cuda.is_available()
    micro = config.pairs_a_forward
    pairs, raters = with_raters(pairs)
    mask_bytes = 4 * micro * max(pairs["row_length"]) ** 2
    shared = mask_bytes <= LARGEST_MASK and shares_prompts(model, tokenizer.pad_token_id, config.max_length)
    if shared:
        pairs = with_column(pairs, "length", pairs["row_length"])
    labels = LabelModel(config, raters)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = trl.RewardConfig(
            output_dir=scratch,
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=config.warmup,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=config.batch_size // micro,
            center_rewards_coefficient=config.centering or None,
            max_length=None,  # longer pairs were left out, and counted, before
            train_sampling_strategy="group_by_length",  # less padding: 1.8 times faster on HH-RLHF dialogues
            seed=config.seed,
            logging_steps=5,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not on_gpu,
            dataloader_pin_memory=on_gpu,
            # TRL turns both on; they slow a CPU down and save it nothing at these sizes
            bf16=on_gpu,
            gradient_checkpointing=on_gpu,
        )
        trainer = PairTrainer(
            model=model,
            args=arguments,
            train_dataset=pairs,
            processing_class=tokenizer,
            data_collator=PairCollator(pad_token_id=tokenizer.pad_token_id, shared=shared),
            callbacks=list(callbacks),
            label_model=labels,
        )
        trainer.remove_callback(PrinterCallback)
        if prepare:
            prepare(trainer)
        trainer.train()
    model.eval()
    return labels
