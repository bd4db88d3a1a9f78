"""What is measured of a trained reward model: the spread of its scores, and how it does on held-out pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from reward.calibration import fit_temperature
from reward.errors import RewardError
from reward.evaluate import figures_by, pair_figures
from reward.length import length_figures
from reward.members import on_one_scale, score_members

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
    opinions = on_one_scale(raw, means)
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
        "disagreement": float(opinions.std(1).mean()),
    }
    if test is None:
        return found
    labels = (chosen, rejected, test["p_chosen"], list(test["group"]))
    return found | {
        "temperature": fit_temperature(*labels[:3]),
        "test": pair_figures(*labels) | length_figures(*labels[:3], test["extra_tokens"]),
        "test_by_source": figures_by(list(test["source"]), *labels),
    }
