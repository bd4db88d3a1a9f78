"""`align dpo`: direct preference optimisation, from a config to a tuned policy in a run folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignment.config import Section
from alignment.console import note
from alignment.dpo_data import tokenize_pairs
from alignment.errors import AlignmentError
from alignment.files import whole_folder
from alignment.models import ModelConfig, context_length, is_adapter, load_policy, load_tokenizer, resolve
from alignment.preferences import Preferences, load_preferences
from alignment.runs import RunFolder
from alignment.tuning.config import TuningConfig
from reward.config import PairBatches

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from alignment.dpo_trainer import SoftDPOTrainer


class DPOConfig(Section, PairBatches):
    """`align dpo`: the policy comes to prefer what the labels prefer, on a leash to where it started."""

    run: str = Field(description="run folder, e.g. runs/dpo")
    seed: int = 0
    policy: ModelConfig = Field(description="the policy to tune; as it is now it is the reference")
    data: str = Field(description="snapshot folder, or JSONL or Parquet with prompt, chosen and rejected")
    tuning: TuningConfig = TuningConfig()

    beta: float = Field(0.1, gt=0, description="the leash: higher stays closer to the reference")
    epochs: float = Field(1.0, gt=0, description="passes over the pairs")
    learning_rate: float = Field(5e-6, gt=0, description="peak; adapters like 5e-6, full tuning 5e-7")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate rises")
    microbatch: int = Field(
        4, ge=1, description="pairs a forward, at most; a matter of memory and speed only"
    )
    max_length: int = Field(
        1024, ge=8, description="tokens of prompt and answer; longer pairs are left out and counted"
    )
    save_every: int = Field(100, ge=1, description="optimizer steps between checkpoints for --resume")


def train_dpo(config: DPOConfig, *, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Train, measure on held-out pairs and save; the policy lands in `run`/model.

    Returns the figures of summary.json. Raises AlignmentError for anything that the user can mend.
    """
    from transformers import set_seed

    from alignment.trainer_progress import train_with_progress
    from alignment.trainer_resume import open_run

    preferences = load_preferences(config.data)
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


def prepare(
    config: DPOConfig, preferences: Preferences, tokenizer: PreTrainedTokenizerBase, run: RunFolder
) -> tuple[Dataset, Dataset, dict[str, int]]:
    """Train and held-out pairs in tokens, weights of mean 1, and how many were left out for which reason."""
    from reward.pairs import with_mean_weight_one

    rejects = list(preferences.rejects)
    train, test = (
        tokenize_pairs(pairs, tokenizer, config.max_length, split=split, reject=rejects.append)
        for split, pairs in (("train", preferences.train), ("test", preferences.test))
    )
    return with_mean_weight_one(train), test, run.log_rejects(rejects, "dpo", "pairs")


def build_trainer(
    config: DPOConfig, tokenizer: PreTrainedTokenizerBase, train: Dataset, test: Dataset, run: RunFolder
) -> SoftDPOTrainer:
    """The trainer with its reference log-probabilities computed: from the base with adapters off, from a
    copy of the adapter where the policy came with one, or from the policy itself before its first step."""
    from transformers import PrinterCallback
    from trl import DPOConfig as Arguments

    from alignment.dpo_trainer import SoftDPOTrainer, SoftPairCollator
    from alignment.trainer_progress import quiet_arguments
    from alignment.tuning.apply import peft_config, training_dtype

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
        four_bit=config.tuning.method == "qlora",
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
        precompute_ref_log_probs=True,
        max_length=None,  # longer pairs were left out, and counted, before
        train_sampling_strategy="group_by_length",  # less padding
        logging_steps=max(1, steps // 50),
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=2,
        **quiet_arguments(),
    )
    trainer = SoftDPOTrainer(
        model=policy,
        args=arguments,
        train_dataset=train,
        eval_dataset=test if len(test) else None,
        processing_class=tokenizer,
        data_collator=SoftPairCollator(pad_token_id=tokenizer.pad_token_id),
        peft_config=None if adapted else peft_config(config.tuning, "CAUSAL_LM", policy),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def measure(trainer: SoftDPOTrainer, test: Dataset) -> dict[str, Any]:
    """How often, and how surely, the implicit rewards agree with the held-out labels; and what is trained."""
    from alignment.tuning.apply import trainable_share
    from reward.evaluate import pair_figures

    figures: dict[str, Any] = {"trainable_share": trainable_share(trainer.model)}
    if len(test):
        chosen, rejected = trainer.held_out_rewards(trainer.get_eval_dataloader())
        figures |= pair_figures(chosen, rejected, test["p_chosen"], list(test["group"]))
    return figures


def save(trainer: SoftDPOTrainer, tokenizer: PreTrainedTokenizerBase, run: RunFolder) -> None:
    from peft import PeftModel

    model = trainer.accelerator.unwrap_model(trainer.model)
    # TRL adds the reference as a second adapter where the policy came with one
    only = {"selected_adapters": ["default"]} if isinstance(model, PeftModel) else {}
    with whole_folder(run.model) as folder:
        model.save_pretrained(folder, **only)
        tokenizer.save_pretrained(folder)


def step_count(config: DPOConfig, pairs: int) -> int:
    return max(1, round(config.epochs * pairs / config.batch_size))


def plan(config: DPOConfig) -> dict[str, Any]:
    """Steps, tokens and memory of a run, for --dry-run."""
    from alignment.footprint import footprint

    data = load_preferences(config.data)
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
