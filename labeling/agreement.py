"""How far annotators agree, and how far judges agree with people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from labeling.errors import LabelingError
from labeling.store import Store
from labeling.views import LabelView

PEOPLE = ("human", "scripted")  # scripted annotators stand in for people


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


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float:
    """Krippendorff's alpha for nominal data (2011, "Computing Krippendorff's Alpha-Reliability").

    `units`: for each item the values that it got, from however many annotators; an item with fewer than two
    values says nothing. NaN if no item has two values, or if all values are the same.
    """
    pairable: Counter[Hashable] = Counter()
    disagreement = 0.0
    for values in units:
        m = len(values)
        if m < 2:
            continue
        counts = Counter(values)
        pairable.update(counts)
        disagreement += (m * m - sum(c * c for c in counts.values())) / (m - 1)
    n = sum(pairable.values())
    expected = n * n - sum(c * c for c in pairable.values())
    return 1 - (n - 1) * disagreement / expected if expected else float("nan")


@dataclass(frozen=True)
class JudgeAgreement:
    """Judge labels against the majority of people on the comparisons that both labelled."""

    agreement: float | None  # agreed / compared; None if nothing could be compared
    compared: int  # judge labels that take a side, where a majority of people does too
    agreed: int
    judge_ties: int  # left out: the judge takes no side
    no_majority: int  # left out: as many people for one side as for the other, or only ties


def judge_human_agreement(store: Store) -> JudgeAgreement:
    """How often the store's judges side with its people. Rankings and both_bad take no side."""
    counts: Counter[str] = Counter()
    labels = groupby(store.effective_labels(), key=lambda label: label.comparison_id)
    for _, group in labels:
        on_it = list(group)
        judges = [side(label) for label in on_it if label.kind == "judge"]
        people = [side(label) for label in on_it if label.kind in PEOPLE]
        if not judges or not people:
            continue
        balance = people.count(0) - people.count(1)
        for judge in judges:
            if balance == 0:
                counts["no_majority"] += 1
            elif judge is None:
                counts["judge_ties"] += 1
            else:
                counts["compared"] += 1
                counts["agreed"] += judge == (0 if balance > 0 else 1)
    agreement = counts["agreed"] / counts["compared"] if counts["compared"] else None
    return JudgeAgreement(
        agreement, *(counts[name] for name in ("compared", "agreed", "judge_ties", "no_majority"))
    )


@dataclass(frozen=True)
class PeopleAgreement:
    """Among people: alpha over the sides they take (0, 1 or a tie), on comparisons that several labelled."""

    alpha: float | None  # None if no comparison has two labels, or all labels are alike
    comparisons: int  # labelled by two people or more


def human_agreement(store: Store) -> PeopleAgreement:
    """How far the store's people agree with one another."""
    labels = groupby(store.effective_labels(), key=lambda label: label.comparison_id)
    units = [[side(label) for label in group if label.kind in PEOPLE] for _, group in labels]
    units = [unit for unit in units if len(unit) > 1]
    alpha = krippendorff_alpha(units)
    return PeopleAgreement(None if math.isnan(alpha) else alpha, len(units))


def side(label: LabelView) -> int | None:
    """The stored position that a label prefers; None for a tie and whatever else takes no side."""
    if label.verdict != "preference" or label.p_first == 0.5:
        return None
    return 0 if label.p_first > 0.5 else 1
