"""Means with intervals, win rates and KL estimates. Pure functions of arrays.

Letters: p = prompts, s = samples of each prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
AT_ONCE = 100  # resamples in memory


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


def resampled(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Bootstrap resamples of n things, some at a time: indexes (some, n), `resamples` of them in all."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, AT_ONCE):
        yield rng.integers(n, size=(min(AT_ONCE, resamples - start), n))


def bootstrap_mean(values: Array, *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """Mean of `values` (p, s) with the 95% percentile interval of a bootstrap over prompts.

    Prompts are resampled whole, since samples of one prompt are not independent. Raises ValueError if empty.
    """
    count = np.full(len(values), float(values.shape[1]))
    return bootstrap_ratio(values.sum(axis=1), count, seed=seed, resamples=resamples)


def bootstrap_ratio(above: Array, below: Array, *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """sum(above) / sum(below), both (p,), with its 95% interval over prompts. Raises ValueError if below is 0."""
    if not np.sum(below):
        raise ValueError("nothing to average over")
    ratios: list[Array] = []
    for drawn in resampled(len(above), resamples, seed):
        sums = below[drawn].sum(axis=1)
        ratios.append(above[drawn].sum(axis=1)[sums != 0] / sums[sums != 0])
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975])
    return Estimate(float(np.sum(above) / np.sum(below)), float(low), float(high))


def bootstrap_sums(
    sums: Array, value: Callable[[Array], float], *, seed: int = 0, resamples: int = 2000
) -> Estimate:
    """A figure of a whole corpus with its 95% interval over prompts.

    sums: (p, k), what each prompt adds to the k counts that `value` makes the figure of. Raises ValueError if
    empty.
    """
    if not len(sums):
        raise ValueError("nothing to count")
    figures = [
        value(counts) for drawn in resampled(len(sums), resamples, seed) for counts in sums[drawn].sum(axis=1)
    ]
    low, high = np.quantile(figures, [0.025, 0.975])
    return Estimate(float(value(sums.sum(axis=0))), float(low), float(high))


def wins(ours: Array, theirs: Array) -> Array:
    """How often each sample of ours beats one of theirs for the same prompt, ties half: (p, s), (p, s) -> (p, 1)."""
    difference = ours[:, :, None] - theirs[:, None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(1, 2))[:, None]


def ordered_alike(scores: Array, truth: Array) -> tuple[Array, Array]:
    """For each prompt the pairs of samples that scores order as truth does, equal scores half, and all pairs.

    scores, truth: (p, s) -> (p,), (p,). Pairs that are equal in truth are in neither.
    """
    one, other = np.triu_indices(scores.shape[1], k=1)
    wanted = np.sign(truth[:, one] - truth[:, other])
    given = np.sign(scores[:, one] - scores[:, other])
    alike = np.where(wanted == 0, 0.0, (1 + wanted * given) / 2)
    return alike.sum(axis=1), np.abs(wanted).sum(axis=1)


def kl_estimates(logprobs: Array, reference: Array) -> tuple[float, float]:
    """KL(policy || reference) of one sampled answer in nats, by the k1 and the k3 estimator.

    logprobs, reference: (tokens,) log-probabilities of the same tokens. k1 sums the log-ratios; k3 adds to
    each token's a term of mean zero that makes it non-negative (Schulman, "Approximating KL divergence", 2020).
    """
    ratio = logprobs - reference
    return float(ratio.sum()), float((np.expm1(-ratio) + ratio).sum())
