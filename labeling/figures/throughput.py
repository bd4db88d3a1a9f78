"""How much gets done, by whom, and how long one item takes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np

from labeling.figures.table import LabelTable
from labeling.views import PEOPLE


@dataclass(frozen=True)
class DayCount:
    day: date  # UTC
    person: str
    labels: int


@dataclass(frozen=True)
class Pace:
    """Seconds that one item takes; the median is what to plan with, for pauses make the mean useless."""

    person: str
    timed: int  # labels that say how long they took
    low: float  # first quartile
    median: float
    high: float  # third quartile


def per_day(table: LabelTable) -> list[DayCount]:
    """People's labels by day and person, of every purpose: repeats and gold are work too."""
    people = table.where(table.of_kind(*PEOPLE))
    days = people.time.astype("datetime64[D]")
    keys, counts = np.unique(np.stack([days.astype(np.int64), people.annotator]), axis=1, return_counts=True)
    return [
        DayCount(np.datetime64(int(day), "D").astype(date), table.names[int(person)], int(count))
        for day, person, count in zip(*keys, counts, strict=True)
    ]


def paces(table: LabelTable) -> list[Pace]:
    """Time per item of each person, by name."""
    people = table.where(table.of_kind(*PEOPLE) & ~np.isnan(table.seconds))
    found = [
        pace(table.names[int(person)], people.seconds[people.annotator == person])
        for person in np.unique(people.annotator)
    ]
    return sorted(found, key=lambda one: one.person)


def pace(person: str, seconds: np.ndarray) -> Pace:
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return Pace(person, len(seconds), float(low), float(median), float(high))
