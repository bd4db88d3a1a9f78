"""Slots: how many more people are wanted on a comparison.

`slots_left` = overlap - people who hold or have labelled it, never below 0, and 0 where the answer is declared.
Labels that came too late, checks and decisions of leads fill no slot. It is stored so that an index can find what
is open; whoever changes what it follows from holds the comparison's row meanwhile, so that it stays true.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, case, exists, func, literal_column, select, text, update
from sqlalchemy.orm import Session

from labeling.schema import Annotator, Assignment, Comparison, Gold, Label, QueueSettingsRow
from labeling.views import PEOPLE, NewLabel


def open_(comparison: Any) -> ColumnElement[bool]:
    """Whether more people are wanted. The 0 is literal: only so do the partial indexes match."""
    condition: ColumnElement[bool] = comparison.slots_left > literal_column("0")
    return condition


def shuffle_of(key: str) -> int:
    """A fixed random place for the comparison of that key."""
    return int(key[:8], 16) & 0x7FFFFFFF


def stored_overlap() -> Any:
    """The overlap in force, as an expression in SQL."""
    stored = select(QueueSettingsRow.settings["overlap"].as_integer()).where(QueueSettingsRow.id == 1)
    return func.coalesce(stored.scalar_subquery(), 1)


def read_overlap(session: Session) -> int:
    return int(session.execute(select(stored_overlap())).scalar_one())


def takers() -> Select[Any]:
    """How many people hold the outer statement's comparison or have labelled it."""
    holding = select(Assignment.annotator_id).where(
        Assignment.comparison_id == Comparison.id,
        Assignment.purpose == "label",
        Assignment.state == "leased",
    )
    labelled = (
        select(Label.annotator_id)
        .join(Annotator, Annotator.id == Label.annotator_id)
        .where(Label.comparison_id == Comparison.id, Label.purpose == "label", Annotator.kind.in_(PEOPLE))
    )
    both = holding.correlate(Comparison).union(labelled.correlate(Comparison))
    return select(func.count()).select_from(both.subquery())


def slots_left() -> Any:
    """What `slots_left` has to be, as an expression in SQL."""
    left = stored_overlap() - takers().scalar_subquery()
    declared = exists().where(Gold.comparison_id == Comparison.id).correlate(Comparison)
    return case((declared, 0), (left < 0, 0), else_=left)


def hold(session: Session, comparisons: Collection[int]) -> None:
    """Nobody else changes the slots of these until the transaction ends. Always in the same order: no deadlock."""
    query = select(Comparison.id).where(Comparison.id.in_(comparisons)).order_by(Comparison.id)
    session.execute(query.with_for_update(key_share=True)).all()


def recount(session: Session, comparisons: Collection[int]) -> None:
    """Count the slots of these comparisons, which the transaction holds, anew."""
    session.execute(update_slots().where(Comparison.id.in_(comparisons)))


def take_directly(session: Session, labels: Sequence[NewLabel]) -> None:
    """People's labels that came without an assignment fill slots as well."""
    people = select(Annotator.id).where(
        Annotator.id.in_({label.annotator_id for label in labels}), Annotator.kind.in_(PEOPLE)
    )
    theirs = set(session.scalars(people))
    if comparisons := {label.comparison_id for label in labels if label.annotator_id in theirs}:
        hold(session, comparisons)
        recount(session, comparisons)


def recount_all(session: Session) -> None:
    """Count every comparison's slots anew, while nobody claims."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE comparison IN EXCLUSIVE MODE"))
        session.execute(update_slots())
        return
    # On SQLite nobody else writes. Every row moves in three indexes: with its usual 2 MB a million take minutes.
    session.execute(text("PRAGMA cache_size = -262144"))
    session.execute(update_slots())
    session.execute(text("PRAGMA cache_size = -2000"))


def update_slots() -> Any:
    return update(Comparison).values(slots_left=slots_left()).execution_options(synchronize_session=False)
