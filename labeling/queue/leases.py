"""Leases: finding, locking and releasing assignments. All but `release_overdue` runs in the caller's transaction."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, exists, literal_column, select, update
from sqlalchemy.orm import Session

from labeling.errors import LabelingError
from labeling.queue.settings import QueueSettings
from labeling.queue.slots import recount
from labeling.schema import Annotator, Assignment, Comparison, Label

if TYPE_CHECKING:
    from labeling.store import Store

AT_ONCE = 500


def lock_annotator(session: Session, annotator_id: int) -> None:
    """One thing at a time for each annotator, in however many tabs. Raises LabelingError if they may not label."""
    query = select(Annotator.active).where(Annotator.id == annotator_id)
    active = session.scalar(query.with_for_update(key_share=True))  # inserts that refer to the row may go on
    if not active:
        raise LabelingError("this account does not label (any more): ask the lead")


def lease(assignment: Assignment, settings: QueueSettings, now: datetime) -> None:
    """Put the assignment into its annotator's hands, from now on for as long as the settings say."""
    assignment.state = "leased"
    assignment.lease_until = now + timedelta(minutes=settings.lease_minutes)


def held(session: Session, token: str, annotator_id: int) -> Assignment:
    """The annotator's assignment of that token, locked. Raises LabelingError if it is not theirs."""
    query = select(Assignment).where(Assignment.token == token, Assignment.annotator_id == annotator_id)
    assignment = session.scalar(query.with_for_update(key_share=True))
    if assignment is None:
        raise not_yours()
    return assignment


def not_yours() -> LabelingError:
    """The same for what is another's and for what was never there."""
    return LabelingError("this item is not yours: reload the page to get your own")


def release_overdue(store: Store, now: datetime, but_of: int) -> None:
    """Take back the leases that ran out, but not this annotator's, and give their slots to others.

    What somebody else is busy with is left to the next call, so that this never waits. A label that was being
    corrected stands as it was.
    """
    leased = Assignment.state == literal_column("'leased'")  # literal, so that the partial index matches
    overdue = leased & (Assignment.lease_until < now)
    others = overdue & (Assignment.annotator_id != but_of)
    with store.engine.connect() as connection:  # most often there is nothing to do, and no lock to take
        if connection.execute(select(Assignment.id).where(others).limit(1)).first() is None:
            return
    with store.begin() as session:
        rows = session.execute(
            select(Assignment.id, Assignment.comparison_id)
            .join(Comparison, Comparison.id == Assignment.comparison_id)
            .where(others)
            .limit(AT_ONCE)
            .with_for_update(key_share=True, skip_locked=True)
        ).all()
        labelled = exists().where(Label.assignment_id == Assignment.id)
        ids = [row.id for row in rows]
        set_state(session, Assignment.id.in_(ids) & labelled, "submitted")
        set_state(session, Assignment.id.in_(ids) & ~labelled, "expired")
        recount(session, {row.comparison_id for row in rows})


def set_state(session: Session, which: ColumnElement[bool], state: str) -> None:
    change = update(Assignment).where(which).values(state=state)
    session.execute(change.execution_options(synchronize_session=False))
