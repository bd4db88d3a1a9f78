"""What is measured of a trained reward model: the spread of its scores, and how it does on held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from reward.calibration import fit_temperature
from reward.errors import RewardError
from reward.evaluate import Figures, figures_by, pair_figures
from reward.length import length_figures
from reward.members import opinions_of, score_members

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    test: Dataset | None,
    *,
    batch_tokens: int,
    aspects: Mapping[str, float] = MappingProxyType({}),
    train_sample: int = 256,
) -> dict[str, Any]:
    """Score spread and held-out figures, as the card has them, from tokenized pairs.

    Without test pairs the spread comes from some train pairs. Raises RewardError if all scores are the same.
    """
    pairs = test if test is not None else train.select(range(min(train_sample, len(train))))
    ids = [*pairs["chosen_ids"], *pairs["rejected_ids"]]
    raw = score_members(model, ids, pad_token_id=tokenizer.pad_token_id, batch_tokens=batch_tokens)
    several = raw.shape[1] > 1
    means = [float(mean) for mean in raw.mean(0)] if several else []
    opinions = opinions_of(raw, means, list(aspects.values()))
    scores = opinions.mean(1)
    if not scores.std() > 0:
        raise RewardError("the reward model gives every answer the same score: it has learned nothing")
    chosen, rejected = np.split(scores, 2)
    found = {
        "score_mean": float(scores.mean()),
        "score_std": float(scores.std()),
        "scored": len(scores),
        "measured_on": "train" if test is None else "test",
        "member_means": means,
        "aspects": dict(aspects),
        "disagreement": float(opinions.std(1).mean()),
    }
    if test is None:
        return found
    labels = (chosen, rejected, test["p_chosen"], list(test["group"]))
    return found | {
        "temperature": fit_temperature(*labels[:3]),
        "test": pair_figures(*labels) | length_figures(*labels[:3], test["extra_tokens"]),
        "test_by_source": figures_by(list(test["source"]), *labels),
        "test_by_aspect": {name: aspect_figures(raw[:, k], test, name) for k, name in enumerate(aspects)},
    }


def aspect_figures(scores: np.ndarray, test: Dataset, name: str) -> Figures:
    """How a member's scores, of chosen and then of rejected sides, agree with the labels of its aspect."""
    given = [(row or {}).get(name) for row in test["aspects"]]
    rated = np.array([p is not None for p in given])
    if not rated.any():
        return {"accuracy": None, "pairs": 0}
    p = np.array([p for p in given if p is not None], float)
    chosen, rejected = (side[rated] for side in np.split(scores, 2))
    swap = p < 0.5
    better, worse = np.where(swap, rejected, chosen), np.where(swap, chosen, rejected)
    groups = [group for group, known in zip(test["group"], rated, strict=True) if known]
    return pair_figures(better, worse, np.where(swap, 1 - p, p), groups)
