"""Taking in: answers, corrections, skips and flags. What was recorded once is never lost and never counted twice."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from labeling.errors import LabelingError
from labeling.hashing import content_hash
from labeling.messages import storable
from labeling.queue.answers import Answer, as_label, check_answer
from labeling.queue.claim import Assigned, as_assigned, as_row
from labeling.queue.leases import held, lease, lock_annotator
from labeling.queue.settings import settings_of
from labeling.queue.slots import hold, open_, recount
from labeling.reads import effective
from labeling.schema import Assignment, Comparison, Flag, Label
from labeling.store import Store
from labeling.views import Purpose
from labeling.writes import insert_labels

__all__ = ["Answer", "Submitted", "flag", "skip", "submit", "undo"]


@dataclass(frozen=True)
class Submitted:
    label_id: int
    late: bool  # the lease had run out and enough others had answered: kept, but not counted


def submit(store: Store, token: str, annotator_id: int, answer: Answer, *, key: str) -> Submitted:
    """Record an answer to the assignment of that token. The same `key` again gives what it gave the first time.

    If the assignment was reopened by `undo`, the new label supersedes the old one.
    Raises LabelingError if the assignment is not this annotator's, or was answered (with another key) or skipped
    before, and for an answer that does not fit it.
    """
    with store.begin() as session:
        lock_annotator(session, annotator_id)
        assignment = held(session, token, annotator_id)
        digest = content_hash(["queue", token, key])
        there = session.scalar(select(Label).where(Label.idempotency_key == digest))
        if there is not None:
            return Submitted(there.id, there.purpose == "late")
        refuse_closed(assignment)
        check_answer(answer, len(assignment.shown_order), settings_of(session))
        old = standing_label(session, assignment)
        purpose = cast(Purpose, old.purpose if old else purpose_now(session, assignment))
        label = as_label(
            answer,
            assignment.shown_order,
            comparison_id=assignment.comparison_id,
            annotator_id=annotator_id,
            key=digest,
            purpose=purpose,
            assignment_id=assignment.id,
            supersedes_id=old.id if old else None,
        )
        [label_id] = insert_labels(session, [label])
        assignment.state = "submitted"
        return Submitted(label_id, purpose == "late")


def refuse_closed(assignment: Assignment) -> None:
    if assignment.state == "submitted":
        raise LabelingError("already answered; undo to change it")
    if assignment.state == "skipped":
        raise LabelingError("you skipped this item: reload the page to get the next one")


def purpose_now(session: Session, assignment: Assignment) -> str:
    """The assignment's purpose; "late" if its lease ran out and no slot is left by now."""
    if assignment.purpose != "label" or assignment.state != "expired":
        return assignment.purpose
    retaken = session.execute(
        update(Comparison)
        .where(Comparison.id == assignment.comparison_id, open_(Comparison))
        .values(slots_left=Comparison.slots_left - 1)
        .returning(Comparison.id)
        .execution_options(synchronize_session=False)
    ).first()
    return "label" if retaken else "late"


def standing_label(session: Session, assignment: Assignment) -> Label | None:
    """The label that the assignment has already, if it was reopened."""
    return session.scalar(select(Label).where(Label.assignment_id == assignment.id, effective()))


def undo(store: Store, annotator_id: int, *, now: datetime | None = None) -> Assigned | None:
    """Reopen what the annotator answered last, for correction; None if there is nothing to go back to.

    Until a new answer is submitted the old one stands. Called again it goes back one more.
    """
    with store.begin() as session:
        lock_annotator(session, annotator_id)
        assignment = session.scalar(
            select(Assignment)
            .join(Label, Label.assignment_id == Assignment.id)
            .where(
                Assignment.annotator_id == annotator_id,
                Assignment.state == "submitted",
                Label.annotator_id == annotator_id,
            )
            .order_by(Label.id.desc())
            .limit(1)
            .with_for_update(key_share=True, of=Assignment)
        )
        if assignment is None:
            return None
        lease(assignment, settings_of(session), now or datetime.now(UTC))
        row = as_row(assignment)
    return as_assigned(store, row)


def skip(store: Store, token: str, annotator_id: int, reason: str) -> None:
    """Give the assignment back, for others: it does not come to this annotator again.

    Skipping what is being corrected leaves the label as it was. Raises LabelingError if the assignment is not
    this annotator's or is answered.
    """
    with store.begin() as session:
        lock_annotator(session, annotator_id)
        assignment = held(session, token, annotator_id)
        if assignment.state == "submitted":
            raise LabelingError("already answered; undo to change it")
        if standing_label(session, assignment):
            assignment.state = "submitted"
            return
        assignment.state, assignment.reason = "skipped", storable(reason)
        session.flush()
        hold(session, [assignment.comparison_id])
        recount(session, [assignment.comparison_id])


def flag(store: Store, token: str, annotator_id: int, reason: str) -> None:
    """Tell the lead that something is wrong with the comparison. The assignment stays as it is."""
    with store.begin() as session:
        lock_annotator(session, annotator_id)
        assignment = held(session, token, annotator_id)
        session.add(
            Flag(comparison_id=assignment.comparison_id, annotator_id=annotator_id, reason=storable(reason))
        )
