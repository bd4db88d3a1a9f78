"""How far annotators agree: coefficients of agreement, and what they say of people and judges.

The coefficients take values that are counted item by item: `counts[i, v]` is how many annotators gave item i
the value v. Values stand in ascending order, so that an ordinal coefficient knows which are neighbours.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from labeling.errors import LabelingError
from labeling.figures.table import BOTH_BAD, FIRST, SECOND, TIE, LabelTable, opinions

Level = Literal["nominal", "ordinal"]
Counts = NDArray[np.int64]
Floats = NDArray[np.floating]
RESAMPLES = 1000
NAN = float("nan")


def raw_agreement(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """The share of items on which two annotators say the same. Raises LabelingError for unequal or no items."""
    if len(first) != len(second) or not first:
        raise LabelingError(f"agreement needs the same items from both, got {len(first)} and {len(second)}")
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Cohen's kappa (1960): agreement beyond what the two annotators' own habits give by chance.

    1 is perfect, 0 is chance. NaN where both always say the same one thing: chance agreement is then 1.
    """
    observed, n = raw_agreement(first, second), len(first)
    left, right = Counter(first), Counter(second)
    by_chance = sum(left[value] * right[value] for value in left) / n**2
    return (observed - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")


def count_values(units: Iterable[Sequence[Hashable]]) -> Counts:
    """Items by values: how often each item got each value. Numbers ascend; other values come after them."""
    tallies = [Counter(values) for values in units]
    values = list(dict.fromkeys(value for tally in tallies for value in tally))
    values.sort(key=lambda value: value if isinstance(value, int | float) else math.inf)
    counts = [[tally[value] for value in values] for tally in tallies]
    return np.array(counts, dtype=np.int64).reshape(len(tallies), len(values))


def fleiss_kappa(counts: Counts) -> float:
    """Fleiss' kappa (1971, "Measuring nominal scale agreement among many raters").

    Items with fewer than two values say nothing; where items have unequally many, each counts with the share
    of its pairs of annotators that agree. NaN if nothing is left, or if all values are the same.
    """
    raters = counts.sum(axis=1)
    counts, raters = counts[raters > 1], raters[raters > 1]
    if not len(counts):
        return NAN
    agreeing = ((counts * (counts - 1)).sum(axis=1) / (raters * (raters - 1))).mean()
    by_chance = ((counts.sum(axis=0) / raters.sum()) ** 2).sum()
    return float((agreeing - by_chance) / (1 - by_chance)) if by_chance < 1 else NAN


def krippendorff_alpha(units: Iterable[Sequence[Hashable]], level: Level = "nominal") -> float:
    """Krippendorff's alpha (2011, "Computing Krippendorff's Alpha-Reliability").

    `units`: for each item the values that it got, from however many annotators; an item with fewer than two
    values says nothing. NaN if no item has two values, or if all values are the same.
    """
    return alpha_of_counts(count_values(units), level)


def alpha_of_counts(counts: Counts, level: Level = "nominal") -> float:
    """Krippendorff's alpha of values counted by item."""
    return float(_alpha(_coincidences(counts).sum(axis=0), level))


def alpha_interval(
    counts: Counts, level: Level = "nominal", *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of alpha, over items drawn anew with replacement.

    Items with the same counts are drawn together, so that a million items cost no more than a few patterns.
    """
    counts = counts[counts.sum(axis=1) > 1]
    if not len(counts):
        return NAN, NAN
    patterns, times = np.unique(counts, axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(counts), times / len(counts), size=RESAMPLES)
    drawn = np.tensordot(draws.astype(np.float64), _coincidences(patterns), axes=1)
    alphas = _alpha(drawn, level)
    alphas = alphas[~np.isnan(alphas)]
    if not len(alphas):
        return NAN, NAN
    low, high = np.quantile(alphas, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _coincidences(counts: Counts) -> Floats:
    """For each item the pairs of its values, each weighed so that an item weighs as many as its values."""
    raters = counts.sum(axis=1)
    pairs = counts[:, :, None] * (counts[:, None, :] - np.eye(counts.shape[1], dtype=np.int64))
    return np.where(raters > 1, 1 / np.maximum(raters - 1, 1), 0.0)[:, None, None] * pairs


def _alpha(coincidences: Floats, level: Level) -> Floats:
    """Alpha of one matrix of coincidences (values x values), or of several stacked."""
    totals = coincidences.sum(axis=-1)
    if level == "nominal":
        distance = 1.0 - np.eye(totals.shape[-1])
    else:  # how many values lie between two, squared
        place = totals.cumsum(axis=-1) - totals / 2
        distance = (place[..., :, None] - place[..., None, :]) ** 2
    observed = (coincidences * distance).sum(axis=(-2, -1))
    expected = (totals[..., :, None] * totals[..., None, :] * distance).sum(axis=(-2, -1))
    pairs = np.maximum(totals.sum(axis=-1) - 1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - pairs * observed / expected, NAN)


@dataclass(frozen=True)
class JudgeAgreement:
    """Judge labels against the majority of people on the comparisons that both labelled."""

    agreement: float | None  # agreed / compared; None if nothing could be compared
    compared: int  # judge labels that take a side, where a majority of people does too
    agreed: int
    judge_ties: int  # left out: the judge takes no side
    no_majority: int  # left out: as many people for one side as for the other, or only ties


def judges_against_people(table: LabelTable) -> JudgeAgreement:
    """How often judges side with people. Rankings and both_bad take no side."""
    people, judges = table.where(table.standing()), table.where(table.of_kind("judge"))
    items, place = np.unique(people.comparison, return_inverse=True)
    votes = np.where(people.takes_side(), np.where(people.p_first > 0.5, 1, -1), 0)
    balance = np.bincount(place, weights=votes, minlength=len(items))
    judges = judges.where(np.isin(judges.comparison, items))
    majority = balance[np.searchsorted(items, judges.comparison)]
    sided = judges.takes_side()
    compared = sided & (majority != 0)
    agreed = compared & ((judges.p_first > 0.5) == (majority > 0))
    return JudgeAgreement(
        float(agreed.sum() / compared.sum()) if compared.any() else None,
        int(compared.sum()),
        int(agreed.sum()),
        judge_ties=int((~sided & (majority != 0)).sum()),
        no_majority=int((majority == 0).sum()),
    )


@dataclass(frozen=True)
class PeopleAgreement:
    """Among people, on comparisons that several labelled; None where nothing can be said.

    Values are nominal: one side, the other, a tie, both bad; a ranking gives one for each of its pairs. On
    the scale of strength they are ordinal: three steps to either side, and a tie in the middle.
    """

    alpha: float | None
    comparisons: int  # labelled by two people or more
    interval: tuple[float, float] | None = None  # of alpha, 95 % over comparisons
    fleiss: float | None = None
    ordinal: float | None = None  # alpha on the scale of strength
    ordinal_interval: tuple[float, float] | None = None


def people_agreement(table: LabelTable) -> PeopleAgreement:
    """How far people agree with one another, each asked once and by themselves."""
    people = table.where(table.independent())
    said = opinions(people)
    counts = tally(said.unit, said.value, (FIRST, SECOND, TIE, BOTH_BAD))
    steps = people.step()
    graded = ~np.isnan(steps)
    scale = tally(people.comparison[graded], steps[graded].astype(np.int64), range(-3, 4))
    alpha, ordinal = alpha_of_counts(counts), alpha_of_counts(scale, "ordinal")
    several = np.unique(people.comparison, return_counts=True)[1]
    return PeopleAgreement(
        known(alpha),
        int((several > 1).sum()),
        None if math.isnan(alpha) else alpha_interval(counts),
        known(fleiss_kappa(counts)),
        known(ordinal),
        None if math.isnan(ordinal) else alpha_interval(scale, "ordinal"),
    )


def tally(items: NDArray[np.int64], values: NDArray[np.int64], scale: Sequence[int]) -> Counts:
    """Counts by item and value, for values that lie on `scale`."""
    names, rows = np.unique(items, return_inverse=True)
    cells = rows * len(scale) + (values - scale[0])
    return np.bincount(cells, minlength=len(names) * len(scale)).reshape(len(names), len(scale))


def known(value: float) -> float | None:
    return None if math.isnan(value) else value
