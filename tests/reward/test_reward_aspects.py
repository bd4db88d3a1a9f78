"""A reward model an aspect, on one base: each learns its own labels, the score is their weighted sum."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from transformers import AutoTokenizer

from reward.config import RewardConfig
from reward.errors import RewardError
from reward.learned import LearnedScorer
from reward.members import opinions_of, score_members
from reward.model import from_base
from reward.pairs import of_aspect
from reward.train import train_reward
from tests.reward.test_reward_train import BAD, GOOD, row


def rated(number: int, **aspects: float | None) -> dict[str, Any]:
    return row(number) | {"aspects": aspects or None}


def test_the_better_side_on_an_aspect_comes_first() -> None:
    data = Dataset.from_list([rated(0, kind=0.9, short=0.2), rated(1, kind=None, short=0.5), rated(2)])
    kind, short = of_aspect(data, "kind"), of_aspect(data, "short")
    assert kind["p_chosen"][:] == [0.9]
    assert short["p_chosen"][:] == [0.8, 0.5]
    assert [side[0]["content"] for side in short["chosen"]] == [BAD, GOOD]
    with pytest.raises(RewardError, match="no pair is rated on the aspect 'kidn'"):
        of_aspect(data, "kidn")
    with pytest.raises(RewardError, match="no pair is rated"):
        of_aspect(Dataset.from_list([row(0)]), "kind")


def test_the_weighted_sum_by_hand() -> None:
    raw = np.array([[1.0, 10.0], [3.0, 14.0]])
    assert opinions_of(raw, [2.0, 12.0]).tolist() == [[1, 0], [3, 4]]
    assert opinions_of(raw, [2.0, 12.0], [0.5, -1.0]).tolist() == [[0.5], [-2.5]]


def test_each_aspect_learns_its_own_labels_and_the_folder_gives_the_sum(
    tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = from_base(str(tiny_model), tokenizer, dtype=torch.float32)
    model = get_peft_model(
        base, LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", modules_to_save=["score"])
    )
    # the chosen side is the kinder one, the rejected one the shorter
    data = Dataset.from_list([rated(i, kind=1.0, short=0.0) for i in range(24)])
    test = Dataset.from_list([rated(i, kind=1.0, short=0.0 if i % 2 else None) for i in range(30, 38)])
    weights = {"kind": 0.25, "short": 1.0}
    config = RewardConfig(aspects=weights, batch_size=8, learning_rate=3e-3, epochs=3)
    figures = train_reward(config, model, tokenizer, data, test, tmp_path)
    assert figures["test_by_aspect"]["kind"]["accuracy"] == 1.0
    assert figures["test_by_aspect"]["short"]["accuracy"] == 1.0
    assert figures["test_by_aspect"]["short"]["pairs"] == 4
    assert figures["test"]["accuracy"] == 0.0  # shortness weighs more, and the labels prefer the kinder
    assert figures["aspects"] == weights

    scorer = LearnedScorer(tmp_path, device="cpu")
    ids = scorer.tokens([[*r["prompt"], *r["chosen"]] for r in test])
    raw = score_members(scorer.model, ids, pad_token_id=scorer.pad_token_id, batch_tokens=1000)
    means = figures["member_means"]
    expected = 0.25 * raw[:, 0] + raw[:, 1] - means[1] + means[0]
    assert scorer.score_tokens(ids) == pytest.approx(expected.tolist())
    assert scorer.token_opinions(ids).shape == (8, 1)  # aspects are no doubt


def test_aspects_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="members and aspects do not go together"):
        RewardConfig(aspects={"kind": 1.0}, members=2)
    with pytest.raises(ValidationError, match="must be numbers"):
        RewardConfig(aspects={"kind": math.nan})
