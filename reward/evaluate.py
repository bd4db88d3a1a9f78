"""How often, and how surely, scores agree with labels. n = pairs; every array is (n,)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from reward.calibration import Array, bin_of, favoured, win_chance

Figures = dict[str, float | int | None]


def agreement(chosen: ArrayLike, rejected: ArrayLike) -> Array:
    """1 where the chosen side scores higher, 0 where lower, 1/2 where the scores are equal."""
    return (1 + np.sign(np.asarray(chosen, float) - np.asarray(rejected, float))) / 2


def accuracy(chosen: ArrayLike, rejected: ArrayLike, p_chosen: ArrayLike) -> float | None:
    """Mean agreement over the pairs that have a preference (p_chosen is not 1/2); None if there are none."""
    clear = np.asarray(p_chosen, float) != 0.5
    return float(agreement(chosen, rejected)[clear].mean()) if clear.any() else None


def brier(chosen: ArrayLike, rejected: ArrayLike, p_chosen: ArrayLike) -> float:
    """Expected squared error of sigmoid(chosen - rejected) when p_chosen is the chance that chosen wins."""
    q, p = win_chance(chosen, rejected), np.asarray(p_chosen, float)
    return float((p * (1 - q) ** 2 + (1 - p) * q**2).mean())


def calibration_error(chosen: ArrayLike, rejected: ArrayLike, p_chosen: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015) of the side that the model favours.

    Confidence is binned in equal widths over 1/2..1; the outcome is the label's probability for that side, which is 0
    or 1 for hard labels.
    """
    confidence, outcome = favoured(win_chance(chosen, rejected), p_chosen)
    gaps = np.bincount(bin_of(confidence, bins), weights=confidence - outcome, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def bootstrap_interval(
    values: ArrayLike, groups: Sequence[object], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95% interval of the mean, by drawing whole groups: pairs of one prompt are not independent."""
    _, of_group = np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)
    sums = np.bincount(of_group, weights=np.asarray(values, float))
    counts = np.bincount(of_group)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def pair_figures(
    chosen: ArrayLike, rejected: ArrayLike, p_chosen: ArrayLike, groups: Sequence[object]
) -> Figures:
    """Accuracy with its 95% interval, ECE, Brier score and mean margin; ties (p_chosen 1/2) are counted apart."""
    chosen, rejected, p = (np.asarray(x, float) for x in (chosen, rejected, p_chosen))
    clear = p != 0.5
    low = high = None
    if clear.any():
        low, high = bootstrap_interval(
            agreement(chosen, rejected)[clear], [g for g, c in zip(groups, clear, strict=True) if c]
        )
    return {
        "accuracy": accuracy(chosen, rejected, p),
        "accuracy_low": low,
        "accuracy_high": high,
        "pairs": int(clear.sum()),
        "ties": int((~clear).sum()),
        "ece": calibration_error(chosen, rejected, p),
        "brier": brier(chosen, rejected, p),
        "margin": float((chosen - rejected).mean()),
    }


def figures_by(
    column: Sequence[object],
    chosen: ArrayLike,
    rejected: ArrayLike,
    p_chosen: ArrayLike,
    groups: Sequence[object],
) -> dict[str, Figures]:
    """`pair_figures` for each value of `column`, such as the labels' source."""
    chosen, rejected, p = (np.asarray(x, float) for x in (chosen, rejected, p_chosen))
    result = {}
    for value in sorted({str(v) for v in column}):
        rows = np.flatnonzero([str(v) == value for v in column])
        result[value] = pair_figures(chosen[rows], rejected[rows], p[rows], [groups[i] for i in rows])
    return result
