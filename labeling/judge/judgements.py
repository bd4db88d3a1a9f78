"""Writing down what a judge holds: the judgement, and with it, if there is a verdict, the label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, case, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from labeling.hashing import content_hash
from labeling.judge.verdict import Verdict
from labeling.messages import storable
from labeling.schema import Comparison, Judgement
from labeling.views import NewLabel
from labeling.writes import insert_labels

_COMPARISONS: Any = Comparison.__table__
_RATE = (
    update(_COMPARISONS)
    .where(_COMPARISONS.c.id == bindparam("of_id"))
    .values(
        doubt=bindparam("doubt"),
        priority=case(
            (_COMPARISONS.c.priority < bindparam("at_least"), bindparam("at_least")),
            else_=_COMPARISONS.c.priority,
        ),
    )
)


@dataclass(frozen=True)
class Judged:
    """A judge's verdict on a comparison, to be stored.

    Of a panel's members only the judgement is stored (`speaks` off): the panel's verdict is the label, decides
    what people are to look at, and moves the comparison in their queue.
    """

    comparison_id: int
    annotator_id: int
    verdict: Verdict
    shown_order: Sequence[Any]
    call_keys: Sequence[str]
    detail: dict[str, Any] = field(default_factory=dict)
    routed: str = ""  # why people are to look at it; "" if they need not
    priority: float | None = None  # the least that it gets in their queue
    speaks: bool = True


def record(session: Session, judged: Sequence[Judged]) -> list[bool]:
    """Store each verdict in place of that judge's earlier judgement of the comparison, and its label.

    True for those that are labels now: only a verdict and a tie are.
    """
    labels = [as_label(one) for one in judged if one.speaks and one.verdict.holds]
    by_key = dict(
        zip((label.idempotency_key for label in labels), insert_labels(session, labels), strict=True)
        if labels
        else ()
    )
    label_ids = [by_key.get(key_of(one)) if one.verdict.holds else None for one in judged]
    rows = [as_row(one, label_id) for one, label_id in zip(judged, label_ids, strict=True)]
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    upsert = dialect.insert(Judgement)
    kept = ("comparison_id", "annotator_id")
    fresh = {name: upsert.excluded[name] for name in rows[0] if name not in kept}
    session.execute(upsert.on_conflict_do_update(index_elements=kept, set_=fresh), rows)
    rated = [
        {"of_id": one.comparison_id, "doubt": doubt(one.verdict), "at_least": one.priority}
        for one in judged
        if one.speaks
    ]
    if rated:
        session.execute(_RATE, rated)
    return [label_id is not None for label_id in label_ids]


def as_row(judged: Judged, label_id: int | None) -> dict[str, Any]:
    verdict = judged.verdict
    return {
        "comparison_id": judged.comparison_id,
        "annotator_id": judged.annotator_id,
        "outcome": verdict.outcome,
        "p_first": verdict.p_first,
        "order_consistent": verdict.order_consistent,
        "reason": storable(verdict.reason),
        "routed": judged.routed,
        "detail": judged.detail,
        "call_keys": list(judged.call_keys),
        "label_id": label_id,
    }


def as_label(judged: Judged) -> NewLabel:
    verdict = judged.verdict
    meta: dict[str, Any] = {
        "p_first": verdict.p_first,
        "order_consistent": verdict.order_consistent,
        "label_mass": verdict.label_mass,
    }
    if verdict.scores:
        meta["scores"] = list(verdict.scores)
    if verdict.ranks:
        meta["ranks"] = list(verdict.ranks)
    is_tie = verdict.outcome == "tie" or verdict.p_first is None
    return NewLabel(
        comparison_id=judged.comparison_id,
        annotator_id=judged.annotator_id,
        verdict="ranking" if verdict.ranks else "tie" if is_tie else "preference",
        p_first=0.5 if is_tie or verdict.p_first is None else verdict.p_first,
        shown_order=[list(order) for order in judged.shown_order],
        idempotency_key=key_of(judged),
        meta=meta,
    )


def key_of(judged: Judged) -> str:
    return content_hash(["judge", judged.annotator_id, judged.comparison_id, list(judged.call_keys)])


def doubt(verdict: Verdict) -> float:
    """How unsure the judge is, 0 to 1: wholly if it failed, or if its winner changed with the order."""
    if verdict.confidence is None or verdict.order_consistent is False:
        return 1.0
    return 2.0 - 2 * verdict.confidence
