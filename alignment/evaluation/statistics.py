"""Means with intervals, win rates and KL estimates. Pure functions of arrays.

Letters: p = prompts, s = samples of each prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(values: Array, *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """Mean of `values` (p, s) with the 95% percentile interval of a bootstrap over prompts.

    Prompts are resampled whole, since samples of one prompt are not independent. Raises ValueError if empty.
    """
    if values.size == 0:
        raise ValueError("no values to average")
    by_prompt = values.mean(axis=1)
    rng = np.random.default_rng(seed)
    means = np.array(
        [by_prompt[rng.integers(len(by_prompt), size=len(by_prompt))].mean() for _ in range(resamples)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(by_prompt.mean()), float(low), float(high))


def wins(ours: Array, theirs: Array) -> Array:
    """How often each sample of ours beats one of theirs for the same prompt, ties half: (p, s), (p, s) -> (p, 1)."""
    difference = ours[:, :, None] - theirs[:, None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(1, 2))[:, None]


def kl_estimates(logprobs: Array, reference: Array) -> tuple[float, float]:
    """KL(policy || reference) of one sampled answer in nats, by the k1 and the k3 estimator.

    logprobs, reference: (tokens,) log-probabilities of the same tokens. k1 sums the log-ratios; k3 adds to
    each token's a term of mean zero that makes it non-negative (Schulman, "Approximating KL divergence", 2020).
    """
    ratio = logprobs - reference
    return float(ratio.sum()), float((np.expm1(-ratio) + ratio).sum())
