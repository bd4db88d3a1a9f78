"""The pair losses against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward.losses import bradley_terry, centering

score = st.floats(-20, 20)


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_sure_label_gives_minus_logsigmoid() -> None:
    loss = bradley_terry(t(2.0, 0.5), t(1.0, 1.5), t(1.0, 1.0))
    # -log sigmoid(1) = 0.313262, -log sigmoid(-1) = 1.313262
    assert loss.item() == pytest.approx((0.313262 + 1.313262) / 2, abs=1e-6)


def test_a_soft_label_mixes_both_outcomes() -> None:
    loss = bradley_terry(t(1.0), t(0.0), t(0.75))
    assert loss.item() == pytest.approx(0.75 * 0.313262 + 0.25 * 1.313262, abs=1e-6)


def test_a_soft_label_is_least_where_the_model_says_the_same() -> None:
    gap = torch.tensor([math.log(0.8 / 0.2)], dtype=torch.float64, requires_grad=True)
    bradley_terry(gap, t(0.0), t(0.8)).backward()
    assert gap.grad is not None
    assert gap.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_a_tie_pulls_the_scores_together() -> None:
    assert bradley_terry(t(1.0), t(1.0), t(0.5)).item() == pytest.approx(math.log(2))
    assert bradley_terry(t(3.0), t(1.0), t(0.5)) > bradley_terry(t(1.5), t(1.0), t(0.5))


def test_weights_scale_each_pair() -> None:
    loss = bradley_terry(t(1.0, 0.0), t(0.0, 1.0), t(1.0, 1.0), weight=t(2.0, 0.0))
    assert loss.item() == pytest.approx(2 * 0.313262 / 2, abs=1e-6)


def test_the_margin_is_asked_of_sure_labels_only() -> None:
    sure = bradley_terry(t(2.0), t(0.0), t(1.0), margin=t(1.0))
    assert sure.item() == pytest.approx(0.313262, abs=1e-6)  # a gap of 2 less the margin of 1
    assert bradley_terry(t(2.0), t(0.0), t(0.5), margin=t(1.0)) == bradley_terry(t(2.0), t(0.0), t(0.5))


@given(score, score, st.floats(0, 1), st.floats(0, 3))
def test_swapping_the_sides_and_the_label_changes_nothing(
    a: float, b: float, p: float, margin: float
) -> None:
    there = bradley_terry(t(a), t(b), t(p), margin=t(margin))
    back = bradley_terry(t(b), t(a), t(1 - p), margin=t(margin))
    assert there.item() == pytest.approx(back.item(), rel=1e-9, abs=1e-12)


@given(score, score)
def test_the_loss_is_finite_and_not_negative(a: float, b: float) -> None:
    loss = bradley_terry(t(a).float(), t(b).float(), t(0.9))
    assert loss.dtype == torch.float32
    assert 0 < loss.item() < 40


def test_centering_by_hand() -> None:
    assert centering(t(1.0, 2.0), t(-1.0, 1.0)).item() == pytest.approx((0 + 9) / 2)
