"""A judge's judgements beside people's labels of the same comparisons, as columns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from labeling.figures.table import LabelTable, read_table
from labeling.reads import pages
from labeling.schema import Comparison, Judgement
from labeling.store import Store
from labeling.views import PEOPLE, Message

NAN = float("nan")
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Strings = NDArray[np.str_]


@dataclass(frozen=True)
class Overlap:
    """Every judgement of a pair (n). A side is 1 (the first stored), -1 (the second) or 0 (a tie)."""

    comparison: Ints
    outcome: Strings
    p: Floats  # that the first side is better; NaN where the judge failed
    side: Floats  # the judge's; NaN where it failed
    consistent: Floats  # 1 if both orders named the same winner; NaN if it was not asked in two
    people: Floats  # the side that most people take; NaN where nobody labelled, or as many take another
    share: Floats  # of people for the first side, ties counting half; NaN where nobody labelled
    group: Ints  # by prompt
    longer: Ints  # the side with the longer answer; 0 if they are equally long
    own: Ints  # the side that the judge's own model gave; 0 if neither, or both
    source: Strings
    language: Strings
    length: Ints  # characters of both answers
    readings: Floats  # (n, 2): the side that the reply in each order took; NaN if unread
    preferred_first: Floats  # (n, 2): 1 if the reply preferred the answer shown first, NaN if neither

    def __len__(self) -> int:
        return len(self.comparison)


@dataclass(frozen=True)
class PeopleSaid:
    """Of one comparison."""

    side: float
    share: float
    agreeing: float  # the share of pairs of people that say the same; NaN for fewer than two


def read_overlap(store: Store, judge: int, model: str, people: dict[int, PeopleSaid]) -> Overlap:
    """The judgements of the judge with this id; `model` is what it calls answers of its own."""
    query = (
        select(
            Judgement.comparison_id, Judgement.outcome, Judgement.p_first, Judgement.order_consistent,
            Judgement.detail, Comparison.origin,
        )
        .join(Comparison, Comparison.id == Judgement.comparison_id)
        .where(Judgement.annotator_id == judge)
        .order_by(Judgement.comparison_id)
    )  # fmt: skip
    with store.engine.connect() as connection:
        judgements = connection.execute(query).all()
    groups: dict[str, int] = {}
    rows: list[tuple[Any, ...]] = []
    for page in pages(judgements):
        views = {view.id: view for view in store.comparisons(ids=[row.comparison_id for row in page])}
        for row in page:
            view = views[row.comparison_id]
            if len(view.sides) != 2:
                continue
            said = people.get(view.id, PeopleSaid(NAN, NAN, NAN))
            lengths = [sum(len(message["content"]) for message in messages) for messages, _ in view.sides]
            mine = [bool(name) and name.lower() == model.lower() for _, name in view.sides]
            readings = row.detail.get("readings", [])
            rows.append(
                (
                    view.id, row.outcome, NAN if row.p_first is None else row.p_first,
                    side_of(row.outcome, row.p_first),
                    NAN if row.order_consistent is None else float(row.order_consistent),
                    said.side, said.share, groups.setdefault(view.group, len(groups)),
                    int(np.sign(lengths[0] - lengths[1])), int(mine[0]) - int(mine[1]),
                    row.origin, language_of(view.prompt), sum(lengths),
                    [by_order(readings, order, stored=True) for order in ([0, 1], [1, 0])],
                    [by_order(readings, order, stored=False) for order in ([0, 1], [1, 0])],
                )
            )  # fmt: skip
    kinds = (int, str, float, float, float, float, float, int, int, int, str, str, int, float, float)
    columns = list(zip(*rows, strict=True)) or [()] * len(kinds)
    arrays: list[Any] = [np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)]
    return Overlap(*arrays[:-2], *(one.reshape(-1, 2) for one in arrays[-2:]))


def side_of(outcome: str, p_first: float | None) -> float:
    if outcome == "tie":
        return 0.0
    return NAN if p_first is None else 1.0 if p_first > 0.5 else -1.0


def by_order(readings: list[dict[str, Any]], order: list[int], *, stored: bool) -> float:
    """What the replies in this order said: the stored side that most took, or whether it was shown first."""
    labels = Counter(one["label"] for one in readings if one["order"] == order and one.get("label"))
    if not labels:
        return NAN
    (label, most), *others = labels.most_common(2)
    if label == "C" or (others and others[0][1] == most):
        return 0.0 if stored else NAN
    if not stored:
        return float(label == "A")
    return 1.0 if order["AB".index(label)] == 0 else -1.0


def language_of(prompt: list[Message]) -> str:
    """Chinese if a fifth of the letters are, else other."""
    beginning = "".join(message["content"][:500] for message in prompt)
    letters = [character for character in beginning if character.isalpha()]
    wide = sum("\u3400" <= character <= "\u9fff" for character in letters)
    return "zh" if letters and wide >= len(letters) / 5 else "other"


def what_people_say(store: Store, *, imports: bool = False) -> tuple[dict[int, PeopleSaid], LabelTable]:
    """People's standing labels by comparison, and as a table; with `imports` also those that came with data."""
    table = read_table(store)
    standing = table.standing()
    if imports:
        standing = standing | table.of_kind("import")
    people = table.where(standing & ~table.of_verdict("ranking"))
    sides = np.where(people.takes_side(), np.where(people.p_first > 0.5, 1, -1), 0)
    said: dict[int, list[int]] = {}
    for comparison, side in zip(people.comparison, sides, strict=True):
        said.setdefault(int(comparison), []).append(int(side))
    kinds = (*PEOPLE, "import") if imports else PEOPLE
    return {one: summed(votes) for one, votes in said.items()}, table.where(table.of_kind(*kinds))


def summed(votes: list[int]) -> PeopleSaid:
    counts = Counter(votes)
    (side, most), *others = counts.most_common(2)
    majority = NAN if others and others[0][1] == most else float(side)
    n = len(votes)
    agreeing = sum(count * (count - 1) for count in counts.values()) / (n * (n - 1)) if n > 1 else NAN
    return PeopleSaid(majority, (sum(votes) / n + 1) / 2, agreeing)
