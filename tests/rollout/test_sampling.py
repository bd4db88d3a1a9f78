"""Sampling maths by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
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


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 1500), share=st.floats(0.001, 1), seed=st.integers(0, 1000))
def test_a_draw_over_a_large_vocabulary_is_the_quantile_and_never_ruled_out(size, share, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(8, size, generator=generator)
    ruled_out = torch.rand(8, size, generator=generator) > share
    ruled_out[:, seed % size] = False
    logprobs = logits.masked_fill(ruled_out, -torch.inf).log_softmax(-1)
    uniforms = torch.rand(8, generator=generator, dtype=torch.float64)
    uniforms[:2] = torch.tensor([0.0, 1 - 2**-53])
    tokens = draw(logprobs, uniforms)
    assert torch.isfinite(logprobs.gather(-1, tokens[:, None])).all()
    quantiles = logprobs.exp().double().cumsum(-1)
    quantiles /= quantiles[:, -1:].clone()
    upper = quantiles.gather(-1, tokens[:, None])[:, 0]
    lower = torch.where(tokens > 0, quantiles.gather(-1, (tokens - 1).clamp(min=0)[:, None])[:, 0], 0.0)
    assert (lower - 1e-6 <= uniforms).all()
    assert (uniforms <= upper + 1e-6).all()
