"""Reading the store page by page, so that a million rows never sit in memory at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, exists, func, select, tuple_
from sqlalchemy.orm import aliased

from labeling.schema import (
    Annotator,
    Comparison,
    ComparisonSide,
    Completion,
    Judgement,
    Label,
    Prompt,
)
from labeling.views import ComparisonView, LabelView

PAGE = 500
T = TypeVar("T")


def pages(items: Iterable[T], size: int = PAGE) -> Iterator[list[T]]:
    """`items` in lists of `size`, the last one shorter."""
    page: list[T] = []
    for item in items:
        page.append(item)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page


def select_comparisons(
    *,
    without_label_by: int | None = None,
    without_judgement_by: int | None = None,
    unlabelled: bool = False,
) -> Select[Any]:
    """Ids and prompts of the comparisons that meet every condition given."""
    query = select(Comparison.id, Prompt.messages, Prompt.hash).join(Comparison.prompt)
    labels = exists().where(Label.comparison_id == Comparison.id)
    if unlabelled:
        query = query.where(~labels)
    if without_label_by is not None:
        query = query.where(~labels.where(Label.annotator_id == without_label_by))
    if without_judgement_by is not None:
        judged = exists().where(Judgement.comparison_id == Comparison.id)
        query = query.where(~judged.where(Judgement.annotator_id == without_judgement_by))
    return query


def comparison_page(connection: Connection, query: Select[Any], size: int) -> list[ComparisonView]:
    """The first `size` comparisons that `query` selects, in id order."""
    rows = connection.execute(query.order_by(Comparison.id).limit(size)).all()
    sides = read_sides(connection, [row.id for row in rows])
    return [ComparisonView(row.id, row.messages, tuple(sides[row.id]), row.hash) for row in rows]


def read_sides(connection: Connection, ids: Sequence[int]) -> dict[int, list[tuple[Any, str]]]:
    found: dict[int, list[tuple[Any, str]]] = defaultdict(list)
    query = (
        select(ComparisonSide.comparison_id, Completion.messages, Completion.model)
        .join(ComparisonSide.completion)
        .where(ComparisonSide.comparison_id.in_(ids))
        .order_by(ComparisonSide.comparison_id, ComparisonSide.position)
    )
    for comparison, messages, model in connection.execute(query):
        found[comparison].append((messages, model))
    return found


def effective() -> Any:
    """The condition that a label is not superseded."""
    later = aliased(Label)
    return ~exists().where(later.supersedes_id == Label.id)


def read_labels(connection: Connection, comparisons: Sequence[int] | None = None) -> Iterator[LabelView]:
    """Every effective label (on these few comparisons only), in order of comparison and then of time."""
    query = (
        select(
            Label.id,
            Label.comparison_id,
            Label.annotator_id,
            Annotator.name,
            Annotator.kind,
            Label.verdict,
            Label.p_first,
            Label.strength,
            Label.shown_order,
            Label.rationale,
            Label.seconds,
            Label.meta,
            Label.created_at,
            Label.purpose,
        )
        .join(Label.annotator)
        .where(effective())
        .order_by(Label.comparison_id, Label.id)
        .limit(PAGE)
    )
    if comparisons is not None:
        query = query.where(Label.comparison_id.in_(comparisons))
    last = (0, 0)
    while True:
        after = tuple_(Label.comparison_id, Label.id) > tuple_(*last)
        rows = connection.execute(query.where(after)).all()
        for row in rows:
            yield LabelView(*row)
        if len(rows) < PAGE:
            return
        last = (rows[-1].comparison_id, rows[-1].id)


def read_counts(connection: Connection) -> dict[str, int]:
    """How many rows there are; labels count while they are effective, in all and by kind of annotator."""
    tables = {"prompts": Prompt, "completions": Completion, "comparisons": Comparison}
    counts = {
        name: connection.execute(select(func.count()).select_from(table)).scalar_one()
        for name, table in tables.items()
    }
    by_kind = connection.execute(
        select(Annotator.kind, func.count())
        .select_from(Label)
        .join(Label.annotator)
        .where(effective())
        .group_by(Annotator.kind)
        .order_by(Annotator.kind)
    ).all()
    counts["labels"] = sum(count for _, count in by_kind)
    return counts | {f"labels.{kind}": count for kind, count in by_kind}
