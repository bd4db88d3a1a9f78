"""The pair losses against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward.losses import bradley_terry, centering, davidson, less_margin, smoothed, weighted_mean

gaps = st.floats(-20, 20)


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


LOG_TWO = t(math.log(2))[0]  # ties twice as ready as in an even draw of three


def test_a_sure_label_gives_minus_logsigmoid() -> None:
    # -log sigmoid(1) = 0.313262, -log sigmoid(-1) = 1.313262
    assert bradley_terry(t(1.0, -1.0), t(1.0, 1.0)).tolist() == pytest.approx([0.313262, 1.313262], abs=1e-6)


def test_a_soft_label_mixes_both_outcomes() -> None:
    loss = bradley_terry(t(1.0), t(0.75))
    assert loss.item() == pytest.approx(0.75 * 0.313262 + 0.25 * 1.313262, abs=1e-6)


def test_a_soft_label_is_least_where_the_model_says_the_same() -> None:
    gap = torch.tensor([math.log(0.8 / 0.2)], dtype=torch.float64, requires_grad=True)
    bradley_terry(gap, t(0.8)).sum().backward()
    assert gap.grad is not None
    assert gap.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_a_tie_pulls_the_scores_together() -> None:
    assert bradley_terry(t(0.0), t(0.5)).item() == pytest.approx(math.log(2))
    assert bradley_terry(t(2.0), t(0.5)) > bradley_terry(t(0.5), t(0.5))


def test_davidson_by_hand() -> None:
    # at a gap of 2 log 3, win : tie : loss = 3 : 2 : 1/3, of 16/3 in all
    gap, p = t(*[2 * math.log(3)] * 4), t(1.0, 0.5, 0.75, 0.0)
    win, tie, loss = math.log(9 / 16), math.log(6 / 16), math.log(1 / 16)
    expected = [-win, -tie, -(0.75 * win + 0.25 * loss), -loss]
    assert davidson(gap, p, LOG_TWO).tolist() == pytest.approx(expected)


def test_davidson_without_ties_is_bradley_terry() -> None:
    never = t(-60.0)[0]
    gap, p = t(2.0, -1.0, 0.3), t(1.0, 0.8, 0.6)
    assert torch.allclose(davidson(gap, p, never), bradley_terry(gap, p))


def test_the_readiness_for_ties_is_learned_from_their_share() -> None:
    log_tie = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_tie], max_iter=50)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = davidson(t(0.0, 0.0, 0.0, 0.0, 0.0), t(0.5, 0.5, 0.5, 1.0, 1.0), log_tie).mean()
        total.backward()
        return total

    optimizer.step(loss)  # three of five are ties: tie / (tie + 2) = 3/5
    assert log_tie.exp().item() == pytest.approx(3.0, rel=1e-4)


def test_the_margin_is_asked_of_sure_labels_only() -> None:
    assert less_margin(t(2.0, 2.0, 2.0), t(1.0, 0.75, 0.5), t(1.0, 1.0, 1.0)).tolist() == [1.0, 1.5, 2.0]


def test_smoothing_by_hand() -> None:
    assert smoothed(t(1.0, 0.8, 0.5), 0.1).tolist() == pytest.approx([0.9, 0.74, 0.5])


def test_weights_scale_each_pair() -> None:
    assert weighted_mean(t(1.0, 5.0), t(2.0, 0.0)).item() == 1.0


@given(gaps, st.floats(0, 1), st.floats(0, 3), st.floats(0, 0.49), st.floats(-5, 5))
def test_swapping_the_sides_and_the_label_changes_nothing(
    gap: float, p: float, margin: float, smoothing: float, log_tie: float
) -> None:
    there, back = smoothed(t(p), smoothing), smoothed(t(1 - p), smoothing)
    one, other = less_margin(t(gap), there, t(margin)), less_margin(t(-gap), back, t(margin))
    for loss in (bradley_terry, lambda g, q: davidson(g, q, t(log_tie)[0])):
        if (there == 0.5).item() == (back == 0.5).item():  # rounding may make a tie of one of them
            assert loss(one, there).item() == pytest.approx(loss(other, back).item(), rel=1e-9, abs=1e-12)


@given(gaps, st.sampled_from([0.5, 0.9, 1.0]))
def test_the_losses_are_finite_and_not_negative(gap: float, p: float) -> None:
    for loss in (bradley_terry(t(gap).float(), t(p)), davidson(t(gap).float(), t(p), torch.zeros(()))):
        assert loss.dtype == torch.float32
        assert 0 <= loss.item() < 40


def test_centering_by_hand() -> None:
    assert centering(t(1.0, 2.0), t(-1.0, 1.0)).tolist() == [0, 9]
