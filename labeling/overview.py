"""What is in a store, for people: figures, and a few rows to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import func, select

from labeling.figures.dashboard import Dashboard
from labeling.reads import effective, read_labels
from labeling.schema import Annotator, Completion, ImportBatch, Label, Prompt
from labeling.store import Store
from labeling.views import LabelView, Message


def data_figures(store: Store) -> dict[str, Any]:
    """Rows by table, answers worth imitating, and the imports so far."""
    with store.engine.connect() as connection:
        references = connection.execute(
            select(func.count()).select_from(Completion).where(Completion.reference)
        ).scalar_one()
        imports = connection.execute(
            select(ImportBatch.path, ImportBatch.format, ImportBatch.counts).order_by(ImportBatch.id)
        ).all()
    return store.counts() | {
        "references": references,
        "imports": [{"path": path, "format": form, **counts} for path, form, counts in imports],
    }


def label_figures(store: Store, dashboard: Dashboard) -> dict[str, Any]:
    """Effective labels by annotator and by verdict, and how far people and judges agree."""
    query = (
        select(Annotator.name, Annotator.kind, Label.verdict, func.count())
        .select_from(Label)
        .join(Label.annotator)
        .where(effective())
        .group_by(Annotator.name, Annotator.kind, Label.verdict)
        .order_by(Annotator.name, Label.verdict)
    )
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    annotators = []
    for name, group in groupby(rows, key=lambda row: row[0]):
        verdicts = list(group)
        annotators.append(
            {
                "name": name,
                "kind": verdicts[0][1],
                "labels": sum(row[3] for row in verdicts),
                "verdicts": {row[2]: row[3] for row in verdicts},
            }
        )
    judge, people = dashboard.judges, dashboard.people
    return {
        "labels": sum(annotator["labels"] for annotator in annotators),
        "annotators": annotators,
        "agreement": {
            "judge_human": judge.agreement,
            "judge_human_compared": judge.compared,
            "judge_ties": judge.judge_ties,
            "no_majority": judge.no_majority,
            "human_alpha": people.alpha,
            "human_alpha_comparisons": people.comparisons,
        },
    }


def show(store: Store, limit: int, width: int = 300) -> Iterator[str]:
    """The first comparisons with their labels as readable text; the first prompts if nothing is compared."""
    views = list(store.comparisons(limit=limit))
    with store.engine.connect() as connection:
        labels = list(read_labels(connection, [view.id for view in views]))
        prompts = connection.execute(select(Prompt.messages).order_by(Prompt.id).limit(limit)).scalars().all()
    for view in views:
        lines = [f"comparison {view.id}", *said(view.prompt, width)]
        for position, (messages, model) in enumerate(view.sides):
            lines += [f"  [{position}] {model}".rstrip(), *said(messages, width, "      ")]
        on_it = (label for label in labels if label.comparison_id == view.id)
        yield "\n".join([*lines, *(f"  label: {told(label)}" for label in on_it)])
    if not views:
        for prompt in prompts:
            yield "\n".join(["prompt", *said(prompt, width)])


def said(messages: Sequence[Message], width: int, indent: str = "  ") -> list[str]:
    """One line for each message, shortened to `width` characters."""
    lines = (f"{m['role']}: {' '.join(m['content'].split())}" for m in messages)
    return [indent + (line if len(line) <= width else line[: width - 1] + "…") for line in lines]


def told(label: LabelView) -> str:
    if label.verdict == "ranking":
        what = f"ranks {label.meta['ranks']}"
    elif label.verdict == "preference":
        what = f"prefers [{0 if label.p_first > 0.5 else 1}], p {max(label.p_first, 1 - label.p_first):.2f}"
    else:
        what = label.verdict
    strength = f", strength {label.strength}" if label.strength else ""
    return f"{label.annotator} ({label.kind}) {what}{strength}"
