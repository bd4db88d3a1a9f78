"""`align reward train`: from a config to a reward model in a run folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from alignment.console import note
from alignment.errors import AlignmentError
from alignment.files import whole_folder
from alignment.models import (
    ModelConfig,
    base_of,
    is_adapter,
    keep_trainable_on_cpu,
    load_tokenizer,
    packed_config,
    resolve,
    torch_dtype,
)
from alignment.preferences import Preferences, load_preferences
from alignment.runs import RunFolder
from alignment.tuning.config import TuningConfig
from reward.config import RewardConfig

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class RewardRunConfig(RewardConfig):
    """`align reward train`: a model learns to score answers from pairs of which one is preferred."""

    run: str = Field(description="run folder, e.g. runs/reward")
    base: ModelConfig = Field(description="the policy to start from; its head gives way to a score head")
    data: str = Field(description="snapshot folder, or JSONL or Parquet with prompt, chosen and rejected")
    tuning: TuningConfig = TuningConfig()
    study: Literal["off", "sources", "curve"] = Field(
        "sources",
        description="where people and a judge labelled, train on each alone as well, and compare on people's held-out "
        "labels; curve: on parts of people's labels too",
    )


def train_reward_model(config: RewardRunConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Train, measure and save; the model lands in `run`/model. Returns the figures of summary.json.

    Raises AlignmentError or RewardError for a run that exists, or data or a base that cannot be used.
    """
    from transformers import set_seed

    from alignment.trainer_progress import RunProgress
    from alignment.tuning.apply import require_stage, trainable_share
    from alignment.tuning.training import prepare
    from reward.train import train_reward

    require_stage(config.tuning, "reward")
    data = load_preferences(config.data)
    run = RunFolder.create(Path(config.run), config, overwrite=overwrite)
    rejects = list(data.rejects)
    set_seed(config.seed)  # new adapters are drawn from the global generator
    model, tokenizer = load_base(config)
    with RunProgress(run, "reward") as progress, whole_folder(run.model) as folder:
        card = train_reward(
            config,
            model,
            tokenizer,
            data.train,
            data.test,
            folder,
            callbacks=[progress],
            reject=rejects.append,
            data_hash=data.snapshot,
            prepare=lambda trainer: prepare(trainer, config.tuning, "reward"),
        )
    left_out = run.log_rejects(rejects, "reward", "pairs")
    figures = card | card["test"] | {"left_out": left_out, "trainable_share": trainable_share(model)}
    del figures["test"]
    del model  # the study loads its own
    if config.study != "off":
        figures["study"] = compare_sources(config, data, run)
    run.summarize(figures)
    return figures


def compare_sources(config: RewardRunConfig, data: Preferences, run: RunFolder) -> dict[str, Any]:
    """Figures of the same model trained on people's labels, the judge's, and both; see `alignment.reward_study`."""
    from transformers import set_seed

    from alignment.reward_study import study
    from alignment.trainer_progress import RunProgress
    from reward.train import train_reward

    alone = config.model_copy(update={"members": 1, "aspects": {}, "source_weights": {}})

    def train_on(name: str, train: Dataset, test: Dataset) -> dict[str, Any]:
        set_seed(config.seed)
        model, tokenizer = load_base(config)
        with RunProgress(RunFolder(run.path, writes=False), name) as progress:
            card = train_reward(alone, model, tokenizer, train, test, None, callbacks=[progress])
        return dict(card["test"])

    return study(data.train, data.test, train_on, curve=config.study == "curve")


def load_base(config: RewardRunConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base with a fresh score head and the weights of `config.tuning` free to train, and its tokenizer."""
    from alignment.tuning.apply import apply_tuning, continue_as_reward, training_dtype
    from reward.model import from_base

    path = resolve(config.base.path)
    if is_adapter(path) and config.tuning.method == "full":
        raise AlignmentError(
            f"{path} is an adapter: a reward model goes on with it under tuning.method=lora or qlora; "
            "for full tuning start from a whole model"
        )
    tokenizer = load_tokenizer(path)
    model = from_base(
        base_of(path),
        tokenizer,
        dtype=torch_dtype(training_dtype(config.base.dtype, config.tuning)),
        seed=config.seed,
        quantization_config=packed_config(config.tuning.bits),
    )
    if config.tuning.bits == 4:
        keep_trainable_on_cpu(model)
    if is_adapter(path):
        note(f"reward: starting from the adapter {path}, which keeps its own rank and layers")
        return continue_as_reward(model, path), tokenizer
    return apply_tuning(model, config.tuning, "SEQ_CLS"), tokenizer


def plan(config: RewardRunConfig) -> dict[str, Any]:
    """Steps, tokens and memory of a run, for --dry-run."""
    from alignment.footprint import footprint
    from alignment.tuning.apply import require_stage

    require_stage(config.tuning, "reward")
    data = load_preferences(config.data)
    size = footprint(
        config.base.path,
        config.base.dtype,
        config.tuning,
        rows=2 * config.pairs_a_forward,
        tokens=config.max_length,
    )
    return {
        "base": resolve(config.base.path),
        "pairs": str(data),
        "optimizer steps": math.ceil(config.epochs * math.ceil(len(data.train) / config.batch_size)),
        "tokens, at most": round(config.epochs * len(data.train)) * 2 * config.max_length,
        **size.plan(),
    }
