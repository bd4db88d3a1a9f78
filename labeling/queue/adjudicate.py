"""Adjudication: where people disagree, a lead decides, and the decision alone stands for the people's labels."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import Select, case, exists, func, select
from sqlalchemy.orm import aliased

from labeling.errors import LabelingError
from labeling.hashing import content_hash
from labeling.queue.answers import Answer, as_label, check_answer
from labeling.queue.leases import lock_annotator
from labeling.queue.settings import QueueSettings
from labeling.queue.slots import hold
from labeling.reads import effective, read_labels
from labeling.schema import Annotator, Label
from labeling.store import Store
from labeling.views import PEOPLE, ComparisonView, LabelView
from labeling.writes import count_sides, insert_labels


@dataclass(frozen=True)
class Disagreement:
    """A comparison and what people said of it."""

    comparison: ComparisonView
    labels: tuple[LabelView, ...]


def disagreements(store: Store, limit: int = 100) -> list[Disagreement]:
    """The first comparisons, in id order, of which people say different things and that no lead has decided.

    How strongly does not matter, only which side, a tie or neither; of a ranking the ranks.
    """
    with store.snapshot() as connection:
        ids = list(connection.scalars(disagreed().limit(limit)))
        labels: dict[int, list[LabelView]] = defaultdict(list)
        for label in read_labels(connection, ids):
            if label.kind in PEOPLE and label.purpose == "label":
                labels[label.comparison_id].append(label)
    views = store.comparisons(ids=ids)
    return [Disagreement(view, tuple(labels[view.id])) for view in views]


def disagreed() -> Select[int]:
    decided = aliased(Label)
    said = case(
        (Label.verdict == "ranking", Label.meta["ranks"].as_string()),
        (Label.verdict != "preference", Label.verdict),
        (Label.p_first > 0.5, "first"),
        else_="second",
    )
    return (
        select(Label.comparison_id)
        .join(Annotator, Annotator.id == Label.annotator_id)
        .where(
            effective(),
            Label.purpose == "label",
            Annotator.kind.in_(PEOPLE),
            ~exists().where(decided.comparison_id == Label.comparison_id, decided.purpose == "adjudicate"),
        )
        .group_by(Label.comparison_id)
        .having(func.count(said.distinct()) > 1)
        .order_by(Label.comparison_id)
    )


def adjudicate(store: Store, comparison_id: int, lead_id: int, answer: Answer) -> int:
    """Record a lead's decision, of the sides in stored order; the label's id. A later decision supersedes it.

    Whoever calls this has made sure that the lead is one. Raises LabelingError for an answer that does not fit.
    """
    with store.begin() as session:
        lock_annotator(session, lead_id)
        hold(session, [comparison_id])
        sides = count_sides(session, [comparison_id]).get(comparison_id)
        if sides is None:
            raise LabelingError(f"comparison {comparison_id} is not in the store")
        check_answer(answer, sides, QueueSettings())
        old = session.scalar(
            select(Label).where(
                Label.comparison_id == comparison_id, Label.purpose == "adjudicate", effective()
            )
        )
        supersedes = old.id if old else None
        key = content_hash(["adjudicate", comparison_id, supersedes])
        label = as_label(
            answer,
            range(sides),
            comparison_id=comparison_id,
            annotator_id=lead_id,
            key=key,
            purpose="adjudicate",
            supersedes_id=supersedes,
        )
        [label_id] = insert_labels(session, [label])
        return label_id
