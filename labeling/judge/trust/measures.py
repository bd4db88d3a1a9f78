"""The figures of a judge card. Each is made of sums over judgements, so that a bootstrap is a product of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling.judge.trust.overlap import Floats, Overlap

RESAMPLES = 1000
AT_ONCE = 100  # resamples in memory
BINS = 10
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Measure:
    """`value(terms.sum(axis=0))` is the figure; judgements outside of `of` have terms of 0."""

    of: Mask  # (n,) or, for figures over replies, (n, 2)
    terms: Floats  # (n, m)
    value: Callable[[Floats], Floats]  # sums (k, m) -> figures (k,); NaN if nothing counts


@dataclass(frozen=True)
class Figure:
    """A figure over `of` comparisons or replies, with the 95 % interval of a bootstrap over prompts."""

    value: float | None
    low: float | None
    high: float | None
    of: int


def figure(o: Overlap, measure: Measure) -> Figure:
    """Comparisons of one prompt are drawn together, for they are alike."""
    rows = measure.of if measure.of.ndim == 1 else measure.of.any(axis=1)
    of = int(measure.of.sum())
    groups, place = np.unique(o.group[rows], return_inverse=True)
    by_group = np.stack(
        [np.bincount(place, weights=term, minlength=len(groups)) for term in measure.terms[rows].T], axis=1
    )
    value = float(measure.value(by_group.sum(axis=0, keepdims=True))[0]) if of else math.nan
    if math.isnan(value):
        return Figure(None, None, None, of)
    drawn = np.random.default_rng(0)
    n = len(groups)
    values = []
    for _ in range(RESAMPLES // AT_ONCE):
        times = np.stack([np.bincount(drawn.integers(0, n, n), minlength=n) for _ in range(AT_ONCE)])
        values.append(measure.value(times.astype(np.float64) @ by_group))
    low, high = np.nanquantile(np.concatenate(values), [0.025, 0.975])
    return Figure(value, float(low), float(high), of)


def measures(o: Overlap, calibrated: Floats | None) -> dict[str, Measure]:
    """All that a card says, in its order; `calibrated`: the judge's probabilities (n,) after calibration."""
    said = ~np.isnan(o.people)
    held = ~np.isnan(o.side)
    sided = said & held & (o.people != 0) & (o.side != 0)
    judged = said & held & (o.people != 0)  # ties too: a probability of a half is one
    right = o.side == o.people
    one_order = ~np.isnan(o.readings) & (o.readings != 0) & (said & (o.people != 0))[:, None]
    length = sided & (o.longer != 0)
    own = sided & (o.own != 0)
    found = {
        "agreement": share(right, said),
        "accuracy": share(right, sided),
        "accuracy_one_order": share(o.readings == o.people[:, None], one_order),
        "kappa": kappa(o, said & held),
        "ece": ece(o, o.p, judged),
        "brier": brier(o, o.p, judged),
    }
    if calibrated is not None:
        found["ece_calibrated"] = ece(o, calibrated, judged)
        found["brier_calibrated"] = brier(o, calibrated, judged)
    return found | {
        "order_flips": share(o.consistent == 0, ~np.isnan(o.consistent)),
        "prefers_first_shown": share(o.preferred_first == 1, ~np.isnan(o.preferred_first)),
        "prefers_longer": share(o.side == o.longer, length),
        "people_prefer_longer": share(o.people == o.longer, length),
        "prefers_own": share(o.side == o.own, own),
        "people_prefer_own": share(o.people == o.own, own),
    }


def share(hits: Mask, of: Mask) -> Measure:
    """The share of `of` that are hits."""
    columns = (hits & of, of)
    terms = np.stack([one.reshape(len(of), -1).sum(axis=1) for one in columns], axis=1).astype(np.float64)
    return Measure(of, terms, ratio)


def ratio(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient: Floats = sums[:, 0] / sums[:, 1]
    return quotient


def kappa(o: Overlap, of: Mask) -> Measure:
    """Cohen's kappa (1960) over one side, the other and a tie."""
    cells = np.where(of, (o.side + 1) * 3 + o.people + 1, -1)

    def value(sums: Floats) -> Floats:
        tables = sums.reshape(-1, 3, 3)
        total = tables.sum(axis=(1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            observed = np.trace(tables, axis1=1, axis2=2) / total
            by_chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / total**2
            coefficient: Floats = np.where(by_chance < 1, (observed - by_chance) / (1 - by_chance), np.nan)
        return coefficient

    return Measure(of, one_hot(cells, 9), value)


def ece(o: Overlap, p: Floats, of: Mask) -> Measure:
    """Expected calibration error (Naeini et al. 2015) of the winner's probability, in bins of equal width."""
    confidence, right = confidence_of(o, p)
    gap = np.where(of, confidence - right, 0.0)
    by_bin = one_hot(np.where(of, bin_of(confidence), -1), BINS) * gap[:, None]

    def value(sums: Floats) -> Floats:
        return ratio(np.stack([np.abs(sums[:, :BINS]).sum(axis=1), sums[:, BINS]], axis=1))

    return Measure(of, np.concatenate([by_bin, of[:, None].astype(np.float64)], axis=1), value)


def brier(o: Overlap, p: Floats, of: Mask) -> Measure:
    """Brier's score (1950): the mean squared distance to the side that most people take."""
    error = np.where(of, (p - (o.people > 0)) ** 2, 0.0)
    return Measure(of, np.stack([error, of.astype(np.float64)], axis=1), ratio)


def confidence_of(o: Overlap, p: Floats) -> tuple[Floats, Floats]:
    """How sure of its winner the judge is, and whether most people agree; a half where it has no winner."""
    right = np.where(p == 0.5, 0.5, ((p > 0.5) == (o.people > 0)).astype(np.float64))
    return np.maximum(p, 1 - p), right


def bin_of(confidence: Floats) -> Floats:
    """Which of the bins from a half to 1; NaN for NaN."""
    place: Floats = np.minimum(np.floor((confidence - 0.5) * 2 * BINS), BINS - 1)
    return place


def one_hot(place: Floats, size: int) -> Floats:
    """(n, size); all 0 for places that are none."""
    return (place[:, None] == np.arange(size)).astype(np.float64)
