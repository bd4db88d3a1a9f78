"""The DPO family as functions: numbers worked by hand, TRL's own where it has them, and what soft labels must obey."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from alignment.dpo.config import OWN_DEFAULTS, LossConfig
from alignment.dpo.data import balanced, of_another_prompt
from alignment.dpo.losses import KINDS, Side, kto_loss, log_odds, pair_loss
from alignment.errors import AlignmentError

PAIRED = sorted(set(KINDS) - {"kto"})
numbers = st.floats(-20, -0.5)


def side(logp: float, reference: float = -3.0, tokens: int = 4) -> Side:
    return Side(torch.tensor([logp]), torch.tensor([tokens]), torch.tensor([reference]))


def settings(loss: str, **keys: float) -> LossConfig:
    return LossConfig.model_validate(
        {"loss": loss} | ({"label_smoothing": 0.1} if loss == "robust" else {}) | keys
    )


def loss_of(first: Side, second: Side, config: LossConfig, p: float = 1.0, margin: float = 0.0) -> float:
    return pair_loss(first, second, torch.tensor([p]), torch.tensor([margin]), config)[0].item()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# first: log ratio 1, mean -0.5 a token; second: log ratio -2, mean -1.25 a token
FIRST, SECOND = side(-2.0), side(-5.0)
HALF_SURE = -0.75 * math.log(sigmoid(1.5)) - 0.25 * math.log(sigmoid(-1.5))


@pytest.mark.parametrize(
    ("config", "p", "margin", "expected"),
    [
        (settings("sigmoid", beta=0.5), 1.0, 0.0, -math.log(sigmoid(1.5))),
        (settings("sigmoid", beta=0.5), 0.75, 0.0, HALF_SURE),
        (settings("sigmoid", beta=0.5, label_smoothing=0.25), 1.0, 0.0, HALF_SURE),
        (settings("sigmoid", beta=0.5, margin_scale=0.5), 1.0, 2.0, -math.log(sigmoid(0.5))),
        (settings("sigmoid", beta=0.5, nll=2.0), 1.0, 0.0, -math.log(sigmoid(1.5)) + 2 * 0.5),
        (settings("hinge", beta=0.1), 1.0, 0.0, 0.7),
        (settings("hinge", beta=0.1), 0.0, 0.0, 1.3),
        (settings("ipo", beta=0.5), 1.0, 0.0, (0.75 - 1) ** 2),  # log ratios a token: 0.25 and -0.5
        (settings("ipo", beta=0.5), 0.5, 0.0, 0.5 * (0.75 - 1) ** 2 + 0.5 * (-0.75 - 1) ** 2),
        (settings("simpo"), 1.0, 0.0, -math.log(sigmoid(2 * 0.75 - 1))),
        (settings("cpo", beta=0.1), 1.0, 0.0, -math.log(sigmoid(0.3)) + 0.5),
        (settings("robust", beta=0.5), 1.0, 0.0, (-0.9 * math.log(sigmoid(1.5)) + 0.1 * math.log(sigmoid(-1.5))) / 0.8),
    ],
)  # fmt: skip
def test_worked_by_hand(config: LossConfig, p: float, margin: float, expected: float) -> None:
    assert loss_of(FIRST, SECOND, config, p, margin) == pytest.approx(expected, rel=1e-5)


def test_orpo_by_hand() -> None:
    odds = [math.exp(m) / (1 - math.exp(m)) for m in (-0.5, -1.25)]
    expected = -0.1 * math.log(sigmoid(math.log(odds[0] / odds[1]))) + 0.5
    assert loss_of(FIRST, SECOND, settings("orpo")) == pytest.approx(expected, rel=1e-5)
    assert log_odds(side(0.0), 0.1).isfinite().all()  # an answer that is certain


def test_cpo_and_simpo_are_trl_s() -> None:
    trl = SimpleNamespace(
        alpha=0.0, beta=2.0, simpo_gamma=1.0, label_smoothing=0.0, accelerator=SimpleNamespace(device="cpu")
    )
    chosen, rejected = torch.tensor([-2.0, -9.0]), torch.tensor([-5.0, -4.0])
    tokens = torch.tensor([4, 2])
    for loss, divisor in (("simpo", tokens), ("cpo", torch.ones(2))):
        trl.loss_type = "sigmoid" if loss == "cpo" else loss
        theirs = CPOTrainer.cpo_loss(trl, chosen / divisor, rejected / divisor)[0]
        config = settings(loss, beta=2.0, nll=0.0)
        ours = pair_loss(Side(chosen, tokens), Side(rejected, tokens), torch.ones(2), torch.zeros(2), config)[
            0
        ]
        assert torch.allclose(ours, theirs)


def test_orpo_s_odds_are_trl_s() -> None:
    trl = SimpleNamespace(beta=0.1, accelerator=SimpleNamespace(device="cpu"))
    chosen, rejected, tokens = torch.tensor([-2.0, -9.0]), torch.tensor([-5.0, -4.0]), torch.tensor([4, 2])
    theirs = -ORPOTrainer.odds_ratio_loss(trl, chosen / tokens, rejected / tokens)[0]
    config = settings("orpo", nll=0.0)
    ours = pair_loss(Side(chosen, tokens), Side(rejected, tokens), torch.ones(2), torch.zeros(2), config)[0]
    assert torch.allclose(ours, theirs, atol=1e-6)


@given(st.sampled_from(PAIRED), numbers, numbers, st.floats(0, 1), st.floats(0, 2))
def test_a_swapped_pair_with_the_opposite_label_is_the_same_pair(
    loss: str, one: float, other: float, p: float, margin: float
) -> None:
    config = settings(loss, margin_scale=0.5)
    there = loss_of(side(one), side(other), config, p, margin)
    assert there == pytest.approx(loss_of(side(other), side(one), config, 1 - p, margin), rel=1e-4, abs=1e-5)


@given(st.sampled_from(PAIRED), numbers, numbers, st.floats(0, 1))
def test_a_soft_label_is_the_mean_of_both_readings(loss: str, one: float, other: float, p: float) -> None:
    config, sides = settings(loss), (side(one), side(other))
    mean = p * loss_of(*sides, config, 1.0) + (1 - p) * loss_of(*sides, config, 0.0)
    assert loss_of(*sides, config, p) == pytest.approx(mean, rel=1e-4, abs=1e-4)


@given(numbers, numbers, st.floats(0.01, 0.4))
def test_robust_loss_is_unbiased_under_wrong_labels(one: float, other: float, wrong: float) -> None:
    config, sides = settings("robust", label_smoothing=wrong), (side(one), side(other))
    noisy = (1 - wrong) * loss_of(*sides, config, 1.0) + wrong * loss_of(*sides, config, 0.0)
    assert noisy == pytest.approx(loss_of(*sides, settings("sigmoid")), rel=1e-3, abs=1e-3)


def test_a_soft_label_s_least_loss_is_where_the_policy_believes_it() -> None:
    gap = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([gap], lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        first, second = Side(gap, torch.ones(1), torch.zeros(1)), Side(*[torch.zeros(1)] * 3)
        loss = pair_loss(first, second, torch.tensor([0.8]), torch.zeros(1), settings("sigmoid", beta=1.0))[0]
        loss.sum().backward()
        optimizer.step()
    assert gap.item() == pytest.approx(math.log(0.8 / 0.2), abs=1e-3)


def test_kto_by_hand() -> None:
    reward, usual = torch.tensor([0.3, -0.2, 0.3]), torch.tensor(0.1)
    p_good = torch.tensor([1.0, 0.0, 0.5])
    expected = [1 - sigmoid(0.2), sigmoid(-0.3), 0.5]
    assert kto_loss(reward, usual, p_good).tolist() == pytest.approx(expected)


def test_good_and_bad_answers_weigh_the_same() -> None:
    labels, weights = balanced([1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0])
    assert labels == [1.0, 1.0, 1.0, 0.0]
    assert weights == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    assert balanced([1.0, 0.0], [1.0, 1.0]) == ([1.0, 0.0], [1.0, 1.0])
    labels, weights = balanced(
        [0.75, 0.75], [1.0, 3.0]
    )  # the same loss, good readings times a, bad ones times b
    a, b = 2 / (2 * 3), 2 / (2 * 1)
    assert weights[0] * labels[0] == pytest.approx(a * 0.75)
    assert weights[1] * (1 - labels[1]) == pytest.approx(b * 3 * 0.25)
    with pytest.raises(AlignmentError, match="every answer is labelled bad"):
        balanced([0.0, 0.0], [1.0, 1.0])
    with pytest.raises(AlignmentError, match="weights sum to 0"):
        balanced([0.0, 1.0], [0.0, 0.0])


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9))
def test_the_nearest_answer_to_another_prompt(groups: list[str]) -> None:
    n = len(groups)
    for i, other in enumerate(of_another_prompt(groups)):
        if len(set(groups)) == 1:
            assert other == (i - 1) % n
            continue
        passed = [groups[(i - step) % n] for step in range((i - other) % n)]
        assert groups[other] != groups[i]
        assert set(passed) == {groups[i]}


def test_defaults_belong_to_the_loss() -> None:
    assert LossConfig().beta == 0.1
    for loss, own in OWN_DEFAULTS.items():
        assert own.items() <= LossConfig(loss=loss).model_dump().items()
    assert LossConfig(loss="simpo", beta=3.0).beta == 3.0
    with pytest.raises(ValidationError, match="robust needs label_smoothing"):
        LossConfig(loss="robust")
    with pytest.raises(ValidationError, match="not for loss=kto"):
        LossConfig(loss="kto", nll=1.0)
    with pytest.raises(ValidationError, match="'sigmoid', 'ipo'"):
        LossConfig(loss="dpo")
