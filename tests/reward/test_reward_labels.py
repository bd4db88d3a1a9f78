"""What is learned of those who label: how well each follows the scores."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reward.config import RewardConfig
from reward.errors import RewardError
from reward.labels import LabelModel, Labels, Raters, with_raters
from reward.pairs import refuse_all_ties, usable, with_mean_weight_one
from tests.reward.test_reward_train import pairs, row


def labels(p: list[float], rater: list[int], **other: list[float]) -> Labels:
    b = len(p)
    columns: dict[str, Any] = {
        "p_chosen": p,
        "weight": [1.0] * b,
        "margin": [0.0] * b,
        "extra_tokens": [0.0] * b,
    }
    found = {name: torch.tensor(values) for name, values in (columns | other).items()}
    return Labels(**found, rater=torch.tensor(rater))


def raters(**labels: int) -> Raters:
    return Raters(tuple(labels), tuple(labels.values()), tuple(name == "judge" for name in labels), 10.0)


def test_by_default_the_loss_is_bradley_terrys() -> None:
    model = LabelModel(RewardConfig(), raters(ann=2))
    assert not any(p.requires_grad for p in model.parameters())
    loss = model(torch.tensor([1.0, -1.0]), labels([1.0, 1.0], [0, 0], margin=[5.0, 5.0]))
    assert loss.tolist() == pytest.approx([0.313262, 1.313262], abs=1e-6)
    assert model.figures() == {}


def test_margin_smoothing_and_reliability_by_hand() -> None:
    model = LabelModel(RewardConfig(margin_scale=0.5, smoothing=0.1, reliability=True), raters(a=1, b=1))
    with torch.no_grad():
        model.log_reliability.copy_(torch.tensor([math.log(3.0), 0.0]))  # over their mean: 3/2 and 1/2
    p = 0.9  # what is left of 1 after smoothing; the margin of 2 is scaled to 1 and fades to 0.8
    seen = [1.5 * (1.8 - 0.8), 0.5 * (1.8 - 0.8)]
    prior = math.log(3.0) ** 2 / 2 / 2
    expected = [
        -p * math.log(1 / (1 + math.exp(-g))) - (1 - p) * math.log(1 / (1 + math.exp(g))) + prior
        for g in seen
    ]
    loss = model(torch.tensor([1.8, 1.8]), labels([1.0, 1.0], [0, 1], margin=[2.0, 2.0]))
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_coin_is_told_from_an_expert() -> None:
    generator = torch.Generator().manual_seed(0)
    gap = 2 * torch.randn(4000, generator=generator)
    expert = torch.rand(2000, generator=generator) < gap[:2000].sigmoid()
    coin = torch.rand(2000, generator=generator) < 0.5
    sign = torch.where(torch.cat([expert, coin]), 1.0, -1.0)
    model = LabelModel(RewardConfig(reliability=True), raters(coin=2000, expert=2000))
    rater = [1] * 2000 + [0] * 2000
    scale = torch.ones(
        (), requires_grad=True
    )  # stands for the reward model, which is free to move its scores
    optimizer = torch.optim.Adam([model.log_reliability, scale], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        model(scale * gap * sign, labels([1.0] * 4000, rater)).mean().backward()
        optimizer.step()
    found = model.figures()["reliability"]
    assert found["expert"] > 8 * found["coin"]


def test_a_liking_for_length_by_hand() -> None:
    model = LabelModel(RewardConfig(length_covariate="judges"), raters(ann=1, judge=1))
    with torch.no_grad():
        model.liking.fill_(0.5)
    loss = model(torch.tensor([1.0, 1.0]), labels([1.0, 1.0], [0, 1], extra_tokens=[20.0, 20.0]))
    prior = 2 * 0.25 / 2 / 2
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(-g)) + prior for g in (1.0, 2.0)], rel=1e-5)
    assert model.figures() == {"liking_for_length": {"ann": 0.0, "judge": 0.5}}
    loss.sum().backward()
    assert model.liking.grad is not None
    assert model.liking.grad[0].item() == pytest.approx(0.5)  # of the prior alone


def test_a_liking_for_length_is_learned_beside_the_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    gap, extra = torch.randn(2, 3000, generator=generator)
    prefers = torch.rand(3000, generator=generator) < (gap + 2 * extra).sigmoid()
    sign = torch.where(prefers, 1.0, -1.0)
    model = LabelModel(RewardConfig(length_covariate="all"), raters(ann=3000))
    optimizer = torch.optim.Adam([model.liking], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        model(
            gap * sign, labels([1.0] * 3000, [0] * 3000, extra_tokens=(10 * extra * sign).tolist())
        ).mean().backward()
        optimizer.step()
    assert model.liking.item() == pytest.approx(2.0, abs=0.2)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.floats(-2, 2))
def test_only_differences_of_log_reliability_count(values: list[float], shift: float) -> None:
    model = LabelModel(RewardConfig(reliability=True), raters(a=1, b=5, c=2))
    with torch.no_grad():
        model.log_reliability.copy_(torch.tensor(values))
        before = model.reliability.clone()
        model.log_reliability.add_(shift)
    assert torch.allclose(model.reliability, before, rtol=1e-4)
    assert (model.share * model.reliability).sum().item() == pytest.approx(1, abs=1e-5)


def test_anonymous_labels_are_one_rater_a_source() -> None:
    data = Dataset.from_list(
        [row(0), row(1, annotator="", source="import"), row(2, annotator=None, source="judge")]
    )
    found, known = with_raters(data.add_column("extra_tokens", [3, 0, -3]))
    assert known.names == ("import", "judge", "scripted-a")
    assert known.labels == (1, 1, 1)
    assert known.judges == (False, True, True)
    assert known.spread_tokens == pytest.approx(6**0.5)
    assert found["rater"][:] == [2, 0, 1]


def test_weights_of_sources() -> None:
    data = pairs(4)  # judge, human, judge, human
    assert with_mean_weight_one(data, {})["weight"][:] == [1.0] * 4
    assert with_mean_weight_one(data, {"judge": 0.5})["weight"][:] == pytest.approx([2 / 3, 4 / 3] * 2)
    with pytest.raises(RewardError, match=r"no pair is from 'jugde' \(they are from human, judge\)"):
        with_mean_weight_one(data, {"jugde": 0.5})
    with pytest.raises(RewardError, match="weights sum to 0"):
        with_mean_weight_one(data, {"judge": 0.0, "human": 0.0})
    with pytest.raises(ValidationError, match=r"source_weights\.judge must be 0 or more"):
        RewardConfig(source_weights={"judge": -1.0})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"p_chosen": 0.2}, "p_chosen is outside 0.5..1"),
        ({"p_chosen": 1.2}, "p_chosen is outside 0.5..1"),
        ({"p_chosen": None}, "p_chosen is outside 0.5..1"),
        ({"weight": math.nan}, "weight is negative or not a number"),
        ({"weight": -1.0}, "weight is negative or not a number"),
        ({"margin": math.inf}, "margin is negative or not a number"),
    ],
)
def test_a_label_that_means_nothing_is_left_out_and_counted(change: dict[str, Any], reason: str) -> None:
    left: list[dict[str, Any]] = []
    found = usable(Dataset.from_list([row(0), row(1, **change), row(2)]), split="train", reject=left.append)
    assert found["row"][:] == [0, 2]
    assert left == [{"split": "train", "row": 1, "comparison_id": 1, "reason": reason}]
    with pytest.raises(RewardError, match=f"no train pair has a usable label: {reason}"):
        usable(Dataset.from_list([row(1, **change)]), split="train", reject=left.append)


def test_a_label_that_comes_again_counts_once_and_another_raters_does_not() -> None:
    left: list[dict[str, Any]] = []
    data = Dataset.from_list([row(0), row(0), row(0, annotator="scripted-b"), row(0, p_chosen=0.9)])
    assert usable(data, split="train", reject=left.append)["row"][:] == [0, 2, 3]
    assert [one["reason"] for one in left] == ["the same label again"]
    with pytest.raises(RewardError, match="all 3 train pairs are one and the same"):
        usable(Dataset.from_list([row(0)] * 3), split="train", reject=left.append)


def test_nothing_but_ties_and_missing_columns_are_refused() -> None:
    with pytest.raises(RewardError, match="every train pair is a tie"):
        refuse_all_ties(pairs(3, p_chosen=0.5))
    with pytest.raises(RewardError, match="the train pairs have no column p_chosen, weight"):
        usable(pairs(3).remove_columns(["p_chosen", "weight"]), split="train", reject=print)
