"""How good the labels are: right on gold, the same when asked again, and blind to which side came first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sqlalchemy import select

from labeling.figures.rates import Rate
from labeling.figures.table import UNKNOWN, Ints, LabelTable, Mask, opinions
from labeling.schema import Gold
from labeling.store import Store
from labeling.views import PEOPLE

Answers = Mapping[int, tuple[str, float]]  # (verdict, p_first) by comparison
EVERYONE = ""  # the name under which a figure covers all people


def read_gold(store: Store) -> Answers:
    """The answers that a lead declared right."""
    with store.engine.connect() as connection:
        rows = connection.execute(select(Gold.comparison_id, Gold.verdict, Gold.p_first)).all()
    return {comparison: (verdict, p_first) for comparison, verdict, p_first in rows}


def gold_accuracy(table: LabelTable, gold: Answers) -> dict[str, Rate]:
    """How often each person gives the declared answer. How strongly does not matter; rankings are left out."""
    asked = table.where(
        table.of_kind(*PEOPLE)
        & table.of_purpose("gold", "label", "late")
        & ~table.of_verdict("ranking")
        & np.isin(table.comparison, list(gold))
    )
    right = np.array([meant(*gold[int(one)]) for one in asked.comparison], dtype=object)
    said = np.array([meant(v, p) for v, p in zip(asked.verdicts(), asked.p_first, strict=True)], dtype=object)
    return rates(asked, right == said)


def meant(verdict: str, p_first: float) -> str:
    """A verdict on two sides in one word."""
    if verdict != "preference":
        return verdict
    return "first" if p_first > 0.5 else "second"


def self_consistency(table: LabelTable) -> dict[str, Rate]:
    """How often people say the same when they are shown the same again, sides drawn anew."""
    people = table.of_kind(*PEOPLE)
    first = opinions(table.where(people & table.of_purpose("label", "late", "gold")))
    again = opinions(table.where(people & table.of_purpose("repeat")))
    asked = np.isin(first.unit, again.unit)  # few are
    before = {
        (u, a): v
        for u, a, v in zip(first.unit[asked], first.annotator[asked], first.value[asked], strict=True)
    }
    found: dict[str, list[bool]] = {}
    for unit, annotator, value in zip(again.unit, again.annotator, again.value, strict=True):
        if (unit, annotator) in before:
            same = bool(before[unit, annotator] == value)
            found.setdefault(table.names[int(annotator)], []).append(same)
    return with_everyone({name: Rate(sum(same), len(same)) for name, same in sorted(found.items())})


def position_bias(table: LabelTable) -> dict[str, Rate]:
    """The share of preferences for the side that was shown first. Without bias it is a half."""
    seen = table.where(table.of_kind(*PEOPLE) & table.takes_side() & (table.left != UNKNOWN))
    preferred: Ints = np.where(seen.p_first > 0.5, 0, 1)
    return rates(seen, preferred == seen.left)


def rates(table: LabelTable, hits: Mask) -> dict[str, Rate]:
    """By name of person, and of everyone together where there is anyone."""
    by_person = {
        table.names[int(person)]: Rate(
            int(hits[table.annotator == person].sum()), int((table.annotator == person).sum())
        )
        for person in np.unique(table.annotator)
    }
    return with_everyone(dict(sorted(by_person.items())))


def with_everyone(by_person: dict[str, Rate]) -> dict[str, Rate]:
    if not by_person:
        return {}
    everyone = Rate(sum(r.hits for r in by_person.values()), sum(r.of for r in by_person.values()))
    return {EVERYONE: everyone, **by_person}
