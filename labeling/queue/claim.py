"""Handing out: each annotator holds one comparison at a time, under a lease, in an order of sides of their own."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from labeling.queue.draws import draw, draw_order
from labeling.queue.leases import lease, lock_annotator, not_yours, release_overdue
from labeling.queue.settings import QueueSettings, settings_of
from labeling.queue.slots import open_
from labeling.schema import Assignment, Comparison, ComparisonSide, Gold, Judgement, Label, as_utc, rated
from labeling.store import Store
from labeling.views import ComparisonView

Candidate = aliased(Comparison)
RATINGS = {"random": (), "uncertainty": (rated("uncertainty"),), "judge_doubt": (rated("doubt"),)}


@dataclass(frozen=True)
class Assigned:
    """A comparison in somebody's hands."""

    token: str  # the only name of it that a page may show
    assignment_id: int
    comparison: ComparisonView
    shown_order: list[int]  # stored positions in the order shown
    purpose: str  # label, gold, repeat
    policy: str  # what chose it: a policy of the queue, or "gold" or "repeat" for the draws
    arm: str  # of an experiment: "" or "ai-shown"
    state: str  # leased, submitted, skipped, expired
    lease_until: datetime


@dataclass(frozen=True)
class Choice:
    """A comparison for an annotator, and how it came to be theirs."""

    comparison_id: int
    key: str
    purpose: str
    policy: str
    round: int = 0


def claim(store: Store, annotator_id: int, *, now: datetime | None = None) -> Assigned | None:
    """The comparison that this annotator is to label now; None if there is nothing for them.

    What they hold already comes back, the oldest first, its lease renewed. Else a draw with the settings' seed
    says whether it is a comparison with a declared answer, a repeat, or the next one by the settings' policy.
    Raises LabelingError for somebody who may not label.
    """
    now = now or datetime.now(UTC)
    release_overdue(store, now, but_of=annotator_id)
    with store.begin() as session:
        lock_annotator(session, annotator_id)
        settings = settings_of(session)
        assignment = open_lease(session, annotator_id)
        if assignment is None and (choice := choose(session, annotator_id, settings)):
            assignment = assign(session, annotator_id, choice, settings)
        if assignment is None:
            return None
        lease(assignment, settings, now)
        session.flush()
        row = as_row(assignment)
    return as_assigned(store, row)


def find_assignment(store: Store, token: str, annotator_id: int) -> Assigned:
    """The annotator's assignment of that token, in whatever state. Raises LabelingError if it is not theirs."""
    query = select(Assignment).where(Assignment.token == token, Assignment.annotator_id == annotator_id)
    with Session(store.engine) as session:
        assignment = session.scalar(query)
        if assignment is None:
            raise not_yours()
        row = as_row(assignment)
    return as_assigned(store, row)


def open_lease(session: Session, annotator_id: int) -> Assignment | None:
    """The oldest that the annotator holds: after an undo that is what they went back to."""
    query = (
        select(Assignment)
        .where(Assignment.annotator_id == annotator_id, Assignment.state == "leased")
        .order_by(Assignment.id)
        .limit(1)
    )
    return session.scalar(query.with_for_update(key_share=True))


def choose(session: Session, annotator_id: int, settings: QueueSettings) -> Choice | None:
    """By the seeded draw a gold item or a repeat, if there is one; else the next by the policy."""
    checks = settings.gold_share + settings.repeat_share
    if checks:
        mine = select(func.count()).where(Assignment.annotator_id == annotator_id)
        drawn = draw(settings.seed, "purpose", annotator_id, session.scalar(mine))
        if drawn < settings.gold_share:
            found, purpose, turn = session.execute(next_gold(annotator_id)).first(), "gold", 0
        elif drawn < checks:
            repeat = next_repeat(annotator_id, settings.repeat_after)
            found, purpose, turn = session.execute(repeat).first(), "repeat", 1
        else:
            found, purpose, turn = None, "", 0
        if found:
            return Choice(found.id, found.key, purpose, policy=purpose, round=turn)
    return take_slot(session, annotator_id, settings.policy)


def take_slot(session: Session, annotator_id: int, policy: str) -> Choice | None:
    """The next comparison by the policy, one of its slots taken: found and taken in one statement.

    On PostgreSQL those that others are taking at this moment are passed over; only if nothing else is left does
    it wait for them, as they may have more than one slot.
    """
    waits = (False, True) if session.get_bind().dialect.name == "postgresql" else (True,)
    for wait in waits:
        following = next_open(annotator_id, policy).with_for_update(
            key_share=True, skip_locked=not wait, of=Candidate
        )
        taken = session.execute(
            update(Comparison)
            .where(Comparison.id == following.scalar_subquery())
            .values(slots_left=Comparison.slots_left - 1)
            .returning(Comparison.id, Comparison.key)
            .execution_options(synchronize_session=False)
        ).first()
        if taken:
            return Choice(taken.id, taken.key, "label", policy)
    return None


def next_open(annotator_id: int, policy: str) -> Select[int]:
    """The first open comparison in the policy's order that this annotator has not had."""
    order = (Candidate.priority, *RATINGS[policy], Candidate.shuffle)
    return (
        select(Candidate.id)
        .where(open_(Candidate), new_to(annotator_id, Candidate))
        .order_by(*(column.desc() for column in order))
        .limit(1)
    )


def next_gold(annotator_id: int) -> Select[int, str]:
    return (
        select(Comparison.id, Comparison.key)
        .join(Gold, Gold.comparison_id == Comparison.id)
        .where(new_to(annotator_id, Comparison))
        .order_by(Comparison.shuffle)
        .limit(1)
    )


def next_repeat(annotator_id: int, after: int) -> Select[int, str]:
    """The latest that the annotator labelled for the first and only time, at least `after` labels ago."""
    again = aliased(Assignment)
    mine = select(Label.id).where(Label.annotator_id == annotator_id).order_by(Label.id.desc())
    repeated = exists().where(
        again.comparison_id == Label.comparison_id,
        again.annotator_id == annotator_id,
        again.round > 0,
        again.state != "expired",
    )
    return (
        select(Comparison.id, Comparison.key)
        .join(Label, Label.comparison_id == Comparison.id)
        .where(
            Label.annotator_id == annotator_id,
            Label.purpose == "label",
            Label.id < mine.offset(after - 1).limit(1).scalar_subquery(),
            ~repeated,
        )
        .order_by(Label.id.desc())
        .limit(1)
    )


def new_to(annotator_id: int, comparison: Any) -> ColumnElement[bool]:
    """The annotator neither holds nor answered nor skipped it. What they let expire may come to them again."""
    assigned = exists().where(
        Assignment.comparison_id == comparison.id,
        Assignment.annotator_id == annotator_id,
        Assignment.state != "expired",
    )
    labelled = exists().where(Label.comparison_id == comparison.id, Label.annotator_id == annotator_id)
    return ~assigned & ~labelled


def assign(session: Session, annotator_id: int, choice: Choice, settings: QueueSettings) -> Assignment:
    """The choice as an assignment: the one that expired before, or a new one with its sides in a drawn order."""
    found = session.scalar(
        select(Assignment).where(
            Assignment.comparison_id == choice.comparison_id,
            Assignment.annotator_id == annotator_id,
            Assignment.round == choice.round,
        )
    )
    if found is None:
        sides = select(func.count()).where(ComparisonSide.comparison_id == choice.comparison_id)
        whose = (settings.seed, choice.key, annotator_id)
        found = Assignment(
            token=secrets.token_urlsafe(),
            comparison_id=choice.comparison_id,
            annotator_id=annotator_id,
            round=choice.round,
            shown_order=draw_order(session.scalar(sides) or 0, *whose, choice.round),
            arm="ai-shown" if may_show_ai(session, choice, draw("arm", *whose), settings) else "",
        )
        session.add(found)
    found.purpose, found.policy = choice.purpose, choice.policy
    return found


def may_show_ai(session: Session, choice: Choice, drawn: float, settings: QueueSettings) -> bool:
    """Whether the judge's opinion is shown: by the draw, but never of what a judge handed on to people."""
    routed = exists().where(Judgement.comparison_id == choice.comparison_id, Judgement.routed != "")
    return drawn < settings.show_ai_share and not session.scalar(select(routed))


def as_row(assignment: Assignment) -> dict[str, Any]:
    return {
        "token": assignment.token,
        "assignment_id": assignment.id,
        "comparison": assignment.comparison_id,
        "shown_order": list(assignment.shown_order),
        "purpose": assignment.purpose,
        "policy": assignment.policy,
        "arm": assignment.arm,
        "state": assignment.state,
        "lease_until": as_utc(assignment.lease_until),
    }


def as_assigned(store: Store, row: dict[str, Any]) -> Assigned:
    """With the comparison itself, which is read outside of the transaction that holds locks: it never changes."""
    [comparison] = store.comparisons(ids=[row["comparison"]])
    return Assigned(**row | {"comparison": comparison})
