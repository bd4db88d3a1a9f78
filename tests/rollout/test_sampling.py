"""Sampling maths by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout import Sampling
from rollout.sampling import draw, keep_nucleus, sampling_logprobs

PROBABILITIES = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]])
LOGITS = PROBABILITIES.log()


def test_temperature_squares_the_odds_at_one_half():
    got = sampling_logprobs(LOGITS, Sampling(temperature=0.5)).exp()[0]
    squares = [0.25, 0.09, 0.0225, 0.0025]
    assert got.tolist() == pytest.approx([s / sum(squares) for s in squares], abs=1e-6)


def test_temperature_zero_reports_the_policy_itself():
    assert torch.allclose(sampling_logprobs(LOGITS, Sampling(temperature=0)), LOGITS, atol=1e-6)


def test_top_k_renormalises_over_the_best():
    got = sampling_logprobs(LOGITS, Sampling(top_k=2)).exp()
    assert got[0].tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert got[1].tolist() == pytest.approx([0, 0, 0.375, 0.625])


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, 1), (0.6, 2), (0.9, 3), (0.96, 4)])
def test_nucleus_is_the_smallest_set_that_reaches_top_p(top_p, kept):
    assert torch.isfinite(keep_nucleus(LOGITS, top_p)).sum(-1).tolist() == [kept, kept]


@given(st.floats(0, 1, exclude_max=True))
def test_draw_is_the_quantile(u):
    edges = [0.5, 0.8, 0.95, math.inf]
    expected = next(i for i, edge in enumerate(edges) if u < edge)
    got = int(draw(LOGITS[:1], torch.tensor([u], dtype=torch.float64))[0])
    assert got == expected or any(abs(u - edge) < 1e-6 for edge in edges)


def test_draw_never_takes_what_was_ruled_out():
    ruled_out = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).log_softmax(-1)
    for u in (0.0, 0.5, 1 - 2**-53):
        assert int(draw(ruled_out, torch.tensor([u], dtype=torch.float64))[0]) == 1
