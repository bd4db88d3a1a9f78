"""Whether sigmoid(score difference) is the chance that it seems to be. n = pairs; every array is (n,)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
COLDEST, HOTTEST = 0.05, 20.0


def win_chance(chosen: ArrayLike, rejected: ArrayLike, temperature: float = 1.0) -> Array:
    """sigmoid((chosen - rejected) / temperature)."""
    gap = (np.asarray(chosen, float) - np.asarray(rejected, float)) / temperature
    return np.exp(-np.logaddexp(0, -gap))


def favoured(chance: ArrayLike, p_chosen: ArrayLike) -> tuple[Array, Array]:
    """(confidence, outcome): the model's chance for the side that it favours, 1/2..1, and the label's for that side."""
    q, p = np.asarray(chance, float), np.asarray(p_chosen, float)
    return np.maximum(q, 1 - q), np.where(q >= 0.5, p, 1 - p)


def bin_of(confidence: Array, bins: int) -> NDArray[np.int64]:
    """Bins of equal width over 1/2..1."""
    return np.minimum(((confidence - 0.5) * 2 * bins).astype(np.int64), bins - 1)


@dataclass(frozen=True)
class Bin:
    """A bar of the reliability diagram: of `pairs` with this mean confidence, the favoured side was better so often."""

    confidence: float
    outcome: float
    pairs: int


def reliability_bins(
    chosen: ArrayLike, rejected: ArrayLike, p_chosen: ArrayLike, *, temperature: float = 1.0, bins: int = 10
) -> list[Bin]:
    """The bins that hold pairs, by rising confidence (DeGroot and Fienberg 1983)."""
    confidence, outcome = favoured(win_chance(chosen, rejected, temperature), p_chosen)
    of_bin = bin_of(confidence, bins)
    return [
        Bin(float(confidence[here].mean()), float(outcome[here].mean()), int(here.sum()))
        for here in (of_bin == b for b in range(bins))
        if here.any()
    ]


def fit_temperature(chosen: ArrayLike, rejected: ArrayLike, p_chosen: ArrayLike) -> float:
    """The temperature whose win chances have the least cross-entropy to the labels (Guo et al. 2017), in 0.05..20.

    The loss is convex in 1 / temperature; its slope is followed to 0 by bisection.
    """
    gap = np.asarray(chosen, float) - np.asarray(rejected, float)
    p = np.asarray(p_chosen, float)

    def slope(inverse: float) -> float:
        return float(((np.exp(-np.logaddexp(0, -gap * inverse)) - p) * gap).mean())

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(high) < 0:
        return COLDEST
    if slope(low) > 0:
        return HOTTEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)
