"""Which comparisons a judge is to label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import exists, select

from labeling.errors import LabelingError
from labeling.judge.config import JudgeConfig
from labeling.judge.rendering import as_text
from labeling.schema import Annotator, Comparison, ComparisonSide, Completion
from labeling.store import Store
from labeling.views import ComparisonView


def waiting_comparisons(store: Store, config: JudgeConfig) -> Iterator[ComparisonView]:
    """What the job is to label. Comparisons whose judgement failed are among them: their answers are read
    again from the ledger, which costs nothing, and what has no answer is asked again. Raises LabelingError if
    the store holds none at all."""
    if not store.counts()["comparisons"]:
        raise LabelingError(
            "the store holds no comparisons: `align rollout` or `align data import` adds some"
        )
    if config.only == "unlabelled":
        return store.comparisons(unlabelled=True)
    return store.comparisons(without_label_by=judge_id(store, config.annotator))


def judge_id(store: Store, name: str) -> int | None:
    """The judge's id as annotator, None if it has none yet: it is made with its first judgement."""
    with store.engine.connect() as connection:
        return connection.scalar(select(Annotator.id).where(Annotator.name == name))


def references(store: Store, comparisons: Sequence[ComparisonView]) -> dict[int, str]:
    """A reference answer for each of these comparisons whose prompt has one, and not as one of its sides."""
    is_side = exists().where(
        ComparisonSide.comparison_id == Comparison.id, ComparisonSide.completion_id == Completion.id
    )
    query = (
        select(Comparison.id, Completion.messages)
        .join(Completion, Completion.prompt_id == Comparison.prompt_id)
        .where(Comparison.id.in_([one.id for one in comparisons]), Completion.reference, ~is_side)
        .order_by(Comparison.id, Completion.id.desc())
    )
    with store.engine.connect() as connection:
        return {comparison: as_text(messages) for comparison, messages in connection.execute(query)}
