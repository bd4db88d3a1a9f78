"""The comparisons: find one, read it, declare its right answer, settle what annotators said was wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import String, cast, func, or_, select, update

from labeling.errors import LabelingError
from labeling.reads import effective
from labeling.schema import Annotator, Comparison, Flag, Gold, Label, Prompt, now
from labeling.store import Store
from labeling.views import ComparisonView

PAGE = 20
PREVIEW = 160
MOST_DIGITS = 9  # what the database can number


@dataclass(frozen=True)
class ItemRow:
    id: int
    preview: str  # of the last message of the prompt
    labels: int  # effective, of people
    gold: bool
    flags: int  # open


def find_items(
    store: Store, text: str, after: int = 0, *, flagged: bool = False, gold: bool = False
) -> list[ItemRow]:
    """The first comparisons after this id whose prompt holds the text (or whose number it is)."""
    flags = (
        select(func.count()).where(Flag.comparison_id == Comparison.id, Flag.resolved_at.is_(None))
    ).scalar_subquery()
    is_gold = select(Gold.comparison_id).where(Gold.comparison_id == Comparison.id).exists()
    labels = (
        select(func.count())
        .select_from(Label)
        .join(Label.annotator)
        .where(Label.comparison_id == Comparison.id, Annotator.kind.in_(("human", "scripted")), effective())
    ).scalar_subquery()
    query = select(Comparison.id, Prompt.messages, labels, is_gold, flags).join(Comparison.prompt)
    if text := text.strip():
        inside = cast(Prompt.messages, String).contains(
            json.dumps(text, ensure_ascii=False)[1:-1], autoescape=True
        )
        query = query.where(
            or_(inside, Comparison.id == int(text))
            if text.isdecimal() and len(text) <= MOST_DIGITS
            else inside
        )
    if flagged:
        query = query.where(Comparison.id.in_(select(Flag.comparison_id).where(Flag.resolved_at.is_(None))))
    if gold:
        query = query.where(Comparison.id.in_(select(Gold.comparison_id)))
    query = query.where(Comparison.id > after).order_by(Comparison.id).limit(PAGE)
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    return [ItemRow(i, preview(messages), count, golden, open_) for i, messages, count, golden, open_ in rows]


def preview(messages: Sequence[dict[str, Any]]) -> str:
    text = " ".join(messages[-1]["content"].split())
    return text if len(text) <= PREVIEW else text[: PREVIEW - 1] + "…"


def read_item(store: Store, number: str) -> ComparisonView:
    """Raises LabelingError if there is no such comparison."""
    known = number.isdecimal() and len(number) <= MOST_DIGITS
    found = list(store.comparisons(ids=[int(number)])) if known else []
    if not found:
        raise LabelingError(f"there is no item {number!r}: give the number of one that is in the list")
    return found[0]


def read_gold_of(store: Store, number: int) -> tuple[str, float, str] | None:
    """(verdict, p_first, note) if this comparison is gold."""
    query = select(Gold.verdict, Gold.p_first, Gold.note).where(Gold.comparison_id == number)
    with store.engine.connect() as connection:
        row = connection.execute(query).one_or_none()
    return (row.verdict, row.p_first, row.note) if row else None


def open_flags(store: Store, number: int) -> list[tuple[str, str]]:
    """(who, why) of each flag on a comparison that is not settled."""
    query = (
        select(Annotator.name, Flag.reason)
        .join(Annotator, Annotator.id == Flag.annotator_id)
        .where(Flag.comparison_id == number, Flag.resolved_at.is_(None))
        .order_by(Flag.id)
    )
    with store.engine.connect() as connection:
        return [(name, reason) for name, reason in connection.execute(query)]


def resolve_flags(store: Store, number: int) -> int:
    """Settle every open flag of a comparison; how many there were."""
    with store.begin() as session:
        settled = session.scalars(
            update(Flag)
            .where(Flag.comparison_id == number, Flag.resolved_at.is_(None))
            .values(resolved_at=now())
            .returning(Flag.id)
        )
        return len(settled.all())
