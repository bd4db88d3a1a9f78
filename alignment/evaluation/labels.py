"""`align eval --labels`: what judges and people made of the comparisons that a run put into a store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.config import load_config
from alignment.errors import AlignmentError
from alignment.evaluation.comparisons import FILE, HOW_TO_LABEL
from alignment.evaluation.config import EvalConfig
from alignment.evaluation.figures import put_contests
from alignment.evaluation.report import write_evaluation_report
from alignment.evaluation.wins import Contest
from alignment.runs import RunFolder

if TYPE_CHECKING:
    from labeling.store import Store

PEOPLE = {"human": "people", "scripted": "scripted annotators"}
Row = dict[str, Any]  # of comparisons.jsonl


def read_labels(folder: Path) -> dict[str, Any]:
    """Puts what judges and people said of a run's comparisons into its summary.json and report.html.

    Raises AlignmentError for a folder without comparisons, or if nobody has labelled any.
    """
    run = RunFolder(folder)
    if not all((folder / file).exists() for file in ("config.yaml", "summary.json", FILE)):
        raise AlignmentError(f"{folder} has no comparisons: run `align eval` with comparisons.store first")
    config = load_config(EvalConfig, folder / "config.yaml")
    store, rows = open_labels(config), run.rows(FILE)
    found = list(contests(rows, said_by_rater(store)))
    if not found:
        raise AlignmentError(f"nobody has labelled the comparisons of {folder} yet: {HOW_TO_LABEL}")
    figures = without_labels(run.summary)
    put_contests(figures, found, config.seed)
    run.summarize(figures)
    write_evaluation_report(run.report, config, figures, run.rows("answers.jsonl"))
    return figures


def without_labels(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures but for what judges and people said: that is read anew."""
    kept = [contest for contest in figures.get("contests", []) if contest[0] == "reward"]
    left = {k: v for k, v in figures.items() if not k.startswith("win_by.") or k.startswith("win_by.reward.")}
    return left | {"contests": kept}


def open_labels(config: EvalConfig) -> Store:
    """The store that got a run's comparisons. Raises LabelingError if it is not there."""
    from labeling.store import Store

    if config.comparisons is None:
        raise AlignmentError(f"{config.run} has no comparisons.store in its config")
    return Store.open(config.comparisons.store, create=False)


@dataclass(frozen=True)
class Said:
    """One rater on one comparison: the share of its verdict for the stored first side, and what else is known."""

    share: float  # 1, 0.5 for a tie, 0; people's mean; NaN without a verdict
    failed: bool = False  # a judge was asked, and gave none
    consistent: float = float("nan")  # 1 if both orders named the same winner
    by_order: tuple[float, float] = (
        float("nan"),
    ) * 2  # the share, with the first side shown first, and second


def said_by_rater(store: Store) -> dict[str, dict[int, Said]]:
    """By rater, what was said of each comparison: every judge by its name, and all people together.

    Where scripted annotators stand in for people, the rater's name says so.
    """
    from labeling.judge.trust.overlap import read_overlap, what_people_say

    people, labels = what_people_say(store)
    kinds = {labels.kinds[annotator] for annotator in labels.annotator.tolist()}
    name = " and ".join(word for kind, word in PEOPLE.items() if kind in kinds) or "people"
    found = {name: {one: Said(said.share) for one, said in people.items()}}
    for judge in [one for one, kind in labels.kinds.items() if kind == "judge"]:
        overlap = read_overlap(store, judge, "", people)
        found[labels.names[judge]] = {
            int(comparison): Said(
                (side + 1) / 2,
                bool(np.isnan(side)),
                float(consistent),
                ((readings[0] + 1) / 2, (readings[1] + 1) / 2),
            )
            for comparison, side, consistent, readings in zip(
                overlap.comparison, overlap.side, overlap.consistent, overlap.readings, strict=True
            )
        }
    return found


def contests(rows: Sequence[Row], said: Mapping[str, Mapping[int, Said]]) -> Iterator[Contest]:
    """What each rater that labelled any of `rows` says of each two policies."""
    by_pair: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_pair[row["one"], row["other"]].append(row)
    for rater, labels in said.items():
        for (one, other), matches in by_pair.items():
            if any(row["comparison_id"] in labels for row in matches):
                yield contest(rater, one, other, matches, labels)


def contest(rater: str, one: str, other: str, matches: Sequence[Row], labels: Mapping[int, Said]) -> Contest:
    """Of answers with the same text, and of empty ones, nobody is asked: a tie, and a loss."""
    verdicts = [labels.get(row["comparison_id"]) for row in matches]
    outcomes = [
        settled(row) if row["comparison_id"] is None else turned(row, verdict.share if verdict else np.nan)
        for row, verdict in zip(matches, verdicts, strict=True)
    ]
    by_prompt: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(matches):
        by_prompt[row["row"]].append(index)
    at = np.array(list(by_prompt.values()))  # every prompt has as many samples
    differences = np.array([row["lengths"][0] - row["lengths"][1] for row in matches], dtype=np.float64)
    counts: dict[str, float | int] = {
        "settled": sum(row["comparison_id"] is None for row in matches),
        "labelled": sum(verdict is not None and not verdict.failed for verdict in verdicts),
        "failed": sum(verdict is not None and verdict.failed for verdict in verdicts),
    }
    counts["waiting"] = len(matches) - sum(counts.values())
    asked = [(row, verdict) for row, verdict in zip(matches, verdicts, strict=True) if verdict]
    more = {
        "order_consistent": [verdict.consistent for _, verdict in asked],
        "shown_first": [turned(row, verdict.by_order[not row["one_is_first"]]) for row, verdict in asked],
        "shown_second": [turned(row, verdict.by_order[row["one_is_first"]]) for row, verdict in asked],
    }
    counts |= {name: float(np.nanmean(v)) for name, v in more.items() if not np.isnan(v).all()}
    return Contest(rater, one, other, np.array(outcomes)[at], differences[at], counts)


def turned(row: Row, share: float) -> float:
    """A share for the stored first side as one for the policy `one`."""
    return share if row["one_is_first"] else 1 - share


def settled(row: Row) -> float:
    """An empty answer loses; two with the same text, or two empty ones, are a tie."""
    ours, theirs = row["empty"]
    return 0.5 + (theirs - ours) / 2
