"""Answers of two policies as comparisons in a store, and what judges and people made of them.

Whoever labels sees neither names nor a fixed order: the store's queue draws the order, and a judge is asked in both.
comparisons.jsonl in the run folder says which comparison is of which answers.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.errors import AlignmentError
from alignment.evaluation.config import EvalConfig
from alignment.evaluation.sampling import Answer
from alignment.evaluation.wins import Contest
from alignment.files import write_text
from alignment.prompts import Message
from alignment.runs import RunFolder

if TYPE_CHECKING:
    from labeling.store import Store

FILE = "comparisons.jsonl"
PEOPLE = {"human": "people", "scripted": "scripted annotators"}
Row = dict[str, Any]


def open_store(config: EvalConfig, prompts: Sequence[list[Message]]) -> Store | None:
    """The store that gets the comparisons, if any. Raises AlignmentError for a prompt that it would not take."""
    if config.comparisons is None:
        return None
    from labeling.errors import LabelingError
    from labeling.messages import check_prompt
    from labeling.store import Store

    for number, prompt in enumerate(prompts, 1):
        try:
            check_prompt(prompt)
        except LabelingError as error:
            raise AlignmentError(f"{config.prompts}, row {number}: {error}") from None
    return Store.open(config.comparisons.store)


def open_labels(config: EvalConfig) -> Store:
    """The store that got a run's comparisons. Raises LabelingError if it is not there."""
    from labeling.store import Store

    if config.comparisons is None:
        raise AlignmentError(f"{config.run} has no comparisons.store in its config")
    return Store.open(config.comparisons.store, create=False)


def pairs(config: EvalConfig) -> list[tuple[str, str]]:
    """The policies that are compared: each with the reference, or every two."""
    names = list(config.policies)
    if config.comparisons and config.comparisons.pairs == "reference":
        return [(name, config.reference) for name in names if name != config.reference]
    return [(one, other) for i, one in enumerate(names) for other in names[:i]]


def add_comparisons(
    config: EvalConfig, run: RunFolder, store: Store, answers: Sequence[Answer]
) -> Counter[str]:
    """Puts each pair's answers into the store, sample by sample, and writes down what they are; counts outcomes."""
    from labeling.views import NewComparison, NewCompletion

    def completion(answer: Answer) -> NewCompletion:
        return NewCompletion(
            [{"role": "assistant", "content": answer.text}],
            model=config.policies[answer.policy],  # by which a judge knows answers of its own
            finish_reason=answer.completion.finish_reason,
            meta={"policy": answer.policy, "run": config.run, "seed": config.seed},
        )

    by_policy: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_policy[answer.policy].append(answer)
    matches = [
        match for one, other in pairs(config) for match in zip(by_policy[one], by_policy[other], strict=True)
    ]
    added = store.add_comparisons(
        NewComparison(a.prompt.messages, [completion(a), completion(b)], origin="eval") for a, b in matches
    )
    ids = [one.comparison_id for one in added if one.comparison_id]
    first = {view.id: view.sides[0][0][0]["content"] for view in store.comparisons(ids=ids)}
    rows = [
        {
            "one": a.policy,
            "other": b.policy,
            "row": a.prompt.row,
            "comparison_id": one.comparison_id,
            "outcome": one.outcome,
            "one_is_first": one.comparison_id is not None and first[one.comparison_id] == a.text,
            "lengths": [len(a.text), len(b.text)],
            "empty": [not a.text.strip(), not b.text.strip()],
        }
        for (a, b), one in zip(matches, added, strict=True)
    ]
    write_text(run.path / FILE, "".join(json.dumps(row) + "\n" for row in rows))
    return Counter(one.outcome for one in added)


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
