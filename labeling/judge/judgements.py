"""Writing down what a judge holds: the judgement, and with it, if there is a verdict, the label."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from labeling.hashing import content_hash
from labeling.judge.verdict import ORDERS, Verdict
from labeling.messages import storable
from labeling.schema import Comparison, Judgement
from labeling.views import NewLabel
from labeling.writes import insert_labels


def record(
    session: Session, comparison_id: int, annotator_id: int, verdict: Verdict, call_keys: Sequence[str]
) -> bool:
    """Store `verdict` in place of this judge's earlier judgement of the comparison, and its label.

    True if there is a label now: only a verdict and a tie are. Call it within one transaction.
    """
    judgement = session.scalar(
        select(Judgement).where(
            Judgement.comparison_id == comparison_id, Judgement.annotator_id == annotator_id
        )
    )
    if judgement is None:
        judgement = Judgement(comparison_id=comparison_id, annotator_id=annotator_id)
        session.add(judgement)
    judgement.outcome = verdict.outcome
    judgement.p_first = verdict.p_first
    judgement.order_consistent = verdict.order_consistent
    judgement.reason = storable(verdict.reason)
    judgement.call_keys = list(call_keys)
    session.execute(update(Comparison).where(Comparison.id == comparison_id).values(doubt=doubt(verdict)))
    if verdict.p_first is None:
        return False
    is_tie = verdict.outcome == "tie"
    [judgement.label_id] = insert_labels(
        session,
        [
            NewLabel(
                comparison_id=comparison_id,
                annotator_id=annotator_id,
                verdict="tie" if is_tie else "preference",
                p_first=0.5 if is_tie else verdict.p_first,
                shown_order=[list(order) for order in ORDERS],
                idempotency_key=content_hash(["judge", annotator_id, comparison_id, list(call_keys)]),
                meta={
                    "p_first": verdict.p_first,
                    "order_consistent": verdict.order_consistent,
                    "label_mass": verdict.label_mass,
                },
            )
        ],
    )
    return True


def doubt(verdict: Verdict) -> float:
    """How unsure the judge is, 0 to 1: wholly if it failed, or if its winner changed with the order."""
    if verdict.p_first is None or not verdict.order_consistent:
        return 1.0
    return 1.0 - abs(2 * verdict.p_first - 1)
