"""Every effective label as columns: one read, after which all figures are arithmetic on arrays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, String, case, cast, extract, func, select

from labeling.reads import effective
from labeling.schema import Annotator, Label
from labeling.store import Store
from labeling.views import PEOPLE

VERDICTS = ("preference", "tie", "both_bad", "ranking")
PURPOSES = ("label", "gold", "repeat", "adjudicate", "late")
FIRST, SECOND, TIE, BOTH_BAD = range(4)  # what an annotator can say of two sides
UNKNOWN = -1  # the side shown first, where no one order was shown

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelTable:
    """Labels that nothing supersedes, in order of comparison, annotator and time."""

    id: Ints
    comparison: Ints
    annotator: Ints
    verdict: Ints  # index into VERDICTS
    purpose: Ints  # index into PURPOSES
    p_first: NDArray[np.float64]
    strength: Ints  # 0 unknown, 1..3
    left: Ints  # the stored position shown first, or UNKNOWN
    seconds: NDArray[np.float64]  # NaN if unknown
    time: NDArray[np.datetime64]
    ranks: NDArray[np.object_]  # one list for a ranking, else None
    names: dict[int, str]  # of annotators
    kinds: dict[int, str]

    def __len__(self) -> int:
        return len(self.id)

    def where(self, mask: Mask) -> LabelTable:
        """The labels that `mask` picks."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        picked: dict[str, Any] = {
            name: value[mask] for name, value in values.items() if isinstance(value, np.ndarray)
        }
        return replace(self, **picked)

    def of_kind(self, *kinds: str) -> Mask:
        return np.isin(self.annotator, [one for one, kind in self.kinds.items() if kind in kinds])

    def of_purpose(self, *purposes: str) -> Mask:
        return np.isin(self.purpose, [PURPOSES.index(purpose) for purpose in purposes])

    def of_verdict(self, *verdicts: str) -> Mask:
        return np.isin(self.verdict, [VERDICTS.index(verdict) for verdict in verdicts])

    def independent(self) -> Mask:
        """People's own first answers: what agreement can be measured on."""
        return self.of_kind(*PEOPLE) & self.of_purpose("label", "late")

    def standing(self) -> Mask:
        """People's labels as a snapshot takes them: where a lead decided, that decision alone."""
        people = self.of_kind(*PEOPLE)
        decided = people & self.of_purpose("adjudicate")
        undecided = ~np.isin(self.comparison, self.comparison[decided])
        return decided | (people & self.of_purpose("label") & undecided)

    def verdicts(self) -> list[str]:
        return [VERDICTS[index] for index in self.verdict]

    def takes_side(self) -> Mask:
        return self.of_verdict("preference") & (self.p_first != 0.5)

    def step(self) -> NDArray[np.float64]:
        """The place on the seven-step scale: 3 (first much better) .. 0 (tie) .. -3; NaN where there is none."""
        graded = self.of_verdict("preference") & (self.strength > 0)
        signed = np.where(self.p_first > 0.5, self.strength, -self.strength)
        return np.where(graded, signed, np.where(self.of_verdict("tie"), 0.0, np.nan))


@dataclass(frozen=True)
class Opinions:
    """What each label says of each pair of sides: FIRST, SECOND, TIE or BOTH_BAD. A ranking speaks of several."""

    unit: Ints  # names a pair of sides of a comparison
    annotator: Ints
    value: Ints


def read_table(store: Store) -> LabelTable:
    """The store's effective labels, as of one moment."""
    query = (
        select(
            Label.id,
            Label.comparison_id,
            Label.annotator_id,
            Label.verdict,
            Label.purpose,
            Label.p_first,
            Label.strength,
            func.substr(cast(Label.shown_order, String), 2, 1),  # the first of "[1,0]"
            Label.seconds,
            cast(extract("epoch", Label.created_at), BigInteger),
            case((Label.verdict == "ranking", cast(Label.meta, String))),
        )
        .where(effective())
        .order_by(Label.comparison_id, Label.annotator_id, Label.id)
    )
    with store.snapshot() as connection:
        people = connection.execute(select(Annotator.id, Annotator.name, Annotator.kind)).all()
        rows = connection.execute(query).all()
    columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * 11
    ranks = np.empty(len(rows), dtype=object)
    for row, meta in enumerate(columns[10]):
        ranks[row] = json.loads(meta)["ranks"] if meta else None
    return LabelTable(
        np.array(columns[0], dtype=np.int64),
        np.array(columns[1], dtype=np.int64),
        np.array(columns[2], dtype=np.int64),
        indexes(columns[3], VERDICTS),
        indexes(columns[4], PURPOSES),
        np.array(columns[5], dtype=np.float64),
        np.array(columns[6], dtype=np.int64),
        first_shown(columns[7]),
        np.array(columns[8], dtype=np.float64),  # None becomes NaN
        np.array(columns[9], dtype="datetime64[s]"),
        ranks,
        {one: name for one, name, _ in people},
        {one: kind for one, _, kind in people},
    )


def first_shown(characters: Sequence[str]) -> Ints:
    """Digits as numbers, whatever else as UNKNOWN: a judge was shown two orders, an import's is not known."""
    known = {str(position): position for position in range(10)}
    return np.array([known.get(character, UNKNOWN) for character in characters], dtype=np.int64)


def indexes(values: Sequence[str], of: Sequence[str]) -> Ints:
    place = {value: index for index, value in enumerate(of)}
    return np.array([place[value] for value in values], dtype=np.int64)


def opinions(table: LabelTable) -> Opinions:
    """What the labels say of pairs: a label on two sides once, a ranking for each of its pairs of sides."""
    pairs = ~table.of_verdict("ranking")
    said = np.select(
        [table.of_verdict("both_bad"), table.takes_side() & (table.p_first > 0.5), table.takes_side()],
        [BOTH_BAD, FIRST, SECOND],
        TIE,
    )
    ranked = [
        (comparison * 100 + 10 * i + j, annotator, TIE if a == b else FIRST if a < b else SECOND)
        for comparison, annotator, ranks in zip(
            table.comparison[~pairs], table.annotator[~pairs], table.ranks[~pairs], strict=True
        )
        for (i, a), (j, b) in combinations(enumerate(ranks), 2)
    ]
    of_rankings = np.array(ranked, dtype=np.int64).reshape(-1, 3)
    unit = np.concatenate([table.comparison[pairs] * 100 + 1, of_rankings[:, 0]])
    annotator = np.concatenate([table.annotator[pairs], of_rankings[:, 1]])
    value = np.concatenate([said[pairs], of_rankings[:, 2]])
    order = np.lexsort((annotator, unit))
    return Opinions(unit[order], annotator[order], value[order])
