"""`align dpo`: direct preference optimisation, from a config to a tuned policy in a run folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.console import note
from alignment.dpo.config import DPOConfig
from alignment.dpo.data import balanced, tokenize_answers, tokenize_pairs
from alignment.dpo.unpaired import load_unpaired
from alignment.errors import AlignmentError
from alignment.files import whole_folder
from alignment.models import context_length, is_adapter, load_policy, load_tokenizer, resolve
from alignment.preferences import Preferences, load_preferences
from alignment.runs import RunFolder

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from alignment.dpo.trainer import PreferenceTrainer


def train_dpo(config: DPOConfig, *, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Train, measure on held-out pairs and save; the policy lands in `run`/model.

    Returns the figures of summary.json. Raises AlignmentError for anything that the user can mend.
    """
    from transformers import set_seed

    from alignment.trainer_progress import train_with_progress
    from alignment.trainer_resume import open_run

    preferences = load(config)
    tokenizer = load_tokenizer(config.policy.path)
    run, checkpoint = open_run(Path(config.run), config, "dpo", overwrite=overwrite, resume=resume)
    set_seed(config.seed)  # new adapters are drawn from the global generator
    train, test, left_out = prepare(config, preferences, tokenizer, run)
    trainer = build_trainer(config, tokenizer, train, test, run)
    train_with_progress(trainer, run, "dpo", checkpoint)
    figures = measure(trainer, test) | {
        "train_pairs": len(train),
        "left_out": left_out,
        "data": preferences.snapshot,
        "steps": trainer.state.global_step,
    }
    save(trainer, tokenizer, run)
    run.summarize(figures)
    return figures


def load(config: DPOConfig) -> Preferences:
    """Pairs, or for KTO single answers."""
    assert config.data is not None  # noqa: S101 (the config says so where there are no rounds)
    return load_unpaired(config.data) if config.loss == "kto" else load_preferences(config.data)


def prepare(
    config: DPOConfig, preferences: Preferences, tokenizer: PreTrainedTokenizerBase, run: RunFolder
) -> tuple[Dataset, Dataset, dict[str, int]]:
    """Train and held-out rows in tokens, weights of mean 1, and how many were left out for which reason."""
    from reward.pairs import refuse_all_ties, with_column, with_mean_weight_one

    single = config.loss == "kto"
    if not single:
        refuse_all_ties(preferences.train)
    tokenize = tokenize_answers if single else tokenize_pairs
    rejects = list(preferences.rejects)
    train, test = (
        tokenize(rows, tokenizer, config.max_length, split=split, reject=rejects.append)
        for split, rows in (("train", preferences.train), ("test", preferences.test))
    )
    left_out = run.log_rejects(rejects, "dpo", "answers" if single else "pairs")
    if not single:
        return with_mean_weight_one(train), test, left_out
    labels, weights = balanced(train["p_first"], train["weight"])
    return with_column(with_column(train, "p_first", labels), "weight", weights), test, left_out


def build_trainer(
    config: DPOConfig, tokenizer: PreTrainedTokenizerBase, train: Dataset, test: Dataset, run: RunFolder
) -> PreferenceTrainer:
    """The trainer, its reference's log-probabilities computed: those of the policy before its first step."""
    from transformers import PrinterCallback
    from trl import DPOConfig as Arguments

    from alignment.dpo.trainer import Collator, PreferenceTrainer
    from alignment.trainer_progress import quiet_arguments
    from alignment.tuning.apply import peft_config, require_stage, start_tuning, training_dtype
    from alignment.tuning.training import prepare as prepare_tuning

    require_stage(config.tuning, "dpo")
    path = resolve(config.policy.path)
    adapted = is_adapter(path)
    if adapted and config.tuning.method == "full":
        raise AlignmentError(
            f"{path} is an adapter: DPO goes on with it under tuning.method=lora or qlora; "
            "for full tuning start from a whole model"
        )
    policy = load_policy(
        path,
        training_dtype(config.policy.dtype, config.tuning),
        four_bit=config.tuning.bits == 4,
        eight_bit=config.tuning.bits == 8,
        trainable=True,
    )
    if adapted:
        note(f"dpo: going on with the adapter {path}, which keeps its own rank and layers")
    if config.max_length > context_length(policy):
        raise AlignmentError(
            f"max_length={config.max_length} exceeds the policy's context of {context_length(policy)} tokens: lower it"
        )
    micro = config.pairs_a_forward
    steps = step_count(config, len(train))
    arguments = Arguments(
        output_dir=str(run.checkpoints),
        seed=config.seed,
        max_steps=steps,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=config.batch_size // micro,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(config.warmup * steps),
        beta=config.beta,
        precompute_ref_log_probs=True,  # so that no second model is loaded
        max_length=None,  # longer pairs were left out, and counted, before
        logging_steps=max(1, steps // 50),
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=2,
        **quiet_arguments(),
    )
    trainer = PreferenceTrainer(
        model=policy,
        args=arguments,
        train_dataset=train,
        eval_dataset=test if len(test) else None,
        processing_class=tokenizer,
        data_collator=Collator(tokenizer.pad_token_id, next(policy.parameters()).new_empty(0)),
        peft_config=None if adapted else peft_config(config.tuning, "CAUSAL_LM", policy),
        settings=config,
        max_length=config.max_length,
        cache=run.path.parent / ".reference",
    )
    trainer.remove_callback(PrinterCallback)
    if not adapted:
        start_tuning(trainer.model, config.tuning)
    prepare_tuning(trainer, config.tuning, "dpo")
    return trainer


def measure(trainer: PreferenceTrainer, test: Dataset) -> dict[str, Any]:
    """How often, and how surely, the policy's scores agree with the held-out labels; and what is trained."""
    from alignment.tuning.apply import trainable_share
    from reward.evaluate import pair_figures

    figures: dict[str, Any] = {"trainable_share": trainable_share(trainer.model)}
    if len(test):
        first, second = trainer.held_out_scores(trainer.get_eval_dataloader())
        if trainer.settings.loss == "kto":
            return figures | single_figures(first, test["p_first"])
        figures |= pair_figures(first, second, test["p_first"], list(test["group"]))
    return figures


def single_figures(scores: Sequence[float], p_good: Sequence[float]) -> dict[str, float | int | None]:
    """accuracy: how often a good answer scores above a bad one, over all such pairs; margin: by how much on average."""
    good = [s for s, p in zip(scores, p_good, strict=True) if p > 0.5]
    bad = [s for s, p in zip(scores, p_good, strict=True) if p < 0.5]
    if not (good and bad):
        return {"accuracy": None, "margin": None, "answers": len(scores)}
    above = sum((g > b) + (g == b) / 2 for g in good for b in bad) / (len(good) * len(bad))
    margin = sum(good) / len(good) - sum(bad) / len(bad)
    return {"accuracy": above, "margin": margin, "answers": len(scores)}


def save(trainer: PreferenceTrainer, tokenizer: PreTrainedTokenizerBase, run: RunFolder) -> None:
    from peft import PeftModel

    from alignment.dpo.trainer import POLICY

    model = trainer.accelerator.unwrap_model(trainer.model)
    # TRL adds the reference as a second adapter where the policy came with one
    only = {"selected_adapters": [POLICY]} if isinstance(model, PeftModel) else {}
    with whole_folder(run.model) as folder:
        model.save_pretrained(folder, **only)
        tokenizer.save_pretrained(folder)


def step_count(config: DPOConfig, pairs: int) -> int:
    return max(1, round(config.epochs * pairs / config.batch_size))


def plan(config: DPOConfig) -> dict[str, Any]:
    """Steps, tokens and memory of a run, for --dry-run."""
    from alignment.footprint import footprint

    data = load(config)
    size = footprint(
        config.policy.path,
        config.policy.dtype,
        config.tuning,
        rows=2 * config.pairs_a_forward,
        tokens=config.max_length,
    )
    return {
        "policy": resolve(config.policy.path),
        "pairs": str(data),
        "optimizer steps": step_count(config, len(data.train)),
        "tokens, at most": round(config.epochs * len(data.train)) * 2 * config.max_length,
        **size.plan(),
    }
