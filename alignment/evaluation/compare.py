"""`align eval --compare`: one report of any number of evaluations, from what they saved. No model is loaded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignment.config import load_config
from alignment.errors import AlignmentError
from alignment.evaluation.compare_report import write_comparison
from alignment.evaluation.config import EvalConfig
from alignment.evaluation.figures import Figures, put
from alignment.evaluation.names import LEAD_METRICS
from alignment.evaluation.report import conversation, metrics_of
from alignment.evaluation.statistics import Array, bootstrap_mean, wins
from alignment.runs import RunFolder

Row = dict[str, Any]
WINNING = sorted(LEAD_METRICS, key=lambda metric: metric == "success")  # all or nothing: the last resort


@dataclass(frozen=True)
class Evaluation:
    """What one run of `align eval` saved."""

    name: str
    config: EvalConfig
    figures: Figures
    answers: list[Row]


@dataclass(frozen=True)
class Comparison:
    """Several evaluations as one. Policies have labels of their own; `answers` name them by these.

    `shared`: the prompts, as text, that all of them answered. `won_by`: the metric of the win rates, if there is one.
    """

    evaluations: list[Evaluation]
    labels: list[str]
    figures: Figures
    answers: list[Row]
    shared: list[str]
    won_by: str | None


def compare(folders: Sequence[Path], out: Path) -> Figures:
    """Writes the page `out`; returns its figures: LABEL.METRIC, win.ONE.OTHER, and what was in the summaries.

    Raises AlignmentError for a folder that is not a finished evaluation.
    """
    found = combine(
        [load_evaluation(folder, name) for folder, name in zip(folders, run_names(folders), strict=True)]
    )
    write_comparison(out, found)
    return found.figures


def run_names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with what is before them where two are called the same."""
    counts = Counter(folder.name for folder in folders)
    return [folder.name if counts[folder.name] == 1 else str(folder) for folder in folders]


def load_evaluation(folder: Path, name: str) -> Evaluation:
    run = RunFolder(folder)
    if not all((folder / file).exists() for file in ("config.yaml", "summary.json", "answers.jsonl")):
        raise AlignmentError(f"{folder} is no finished evaluation (config.yaml, summary.json, answers.jsonl)")
    try:
        return Evaluation(
            name, load_config(EvalConfig, folder / "config.yaml"), run.summary, run.rows("answers.jsonl")
        )
    except json.JSONDecodeError as error:
        raise AlignmentError(
            f"{folder} holds a file that is not valid JSON ({error.msg}): evaluate anew"
        ) from None


def combine(evaluations: list[Evaluation]) -> Comparison:
    labels = label_policies(evaluations)
    distinct = list(dict.fromkeys(labels.values()))
    figures: Figures = {}
    answers: dict[str, list[Row]] = {}
    contests: list[list[str]] = []
    for run in evaluations:
        mine = {policy: labels[run.name, policy] for policy in run.config.policies}
        more = renamed(run, mine)
        contests += [contest for contest in more["contests"] if contest not in contests]
        figures = more | figures  # of what two runs have, the first counts
        for policy, label in mine.items():
            rows = [row | {"policy": label} for row in run.answers if row["policy"] == policy]
            answers.setdefault(label, rows)
    prompts = [dict.fromkeys(conversation(row["prompt"]) for row in answers[label]) for label in distinct]
    shared = [prompt for prompt in prompts[0] if all(prompt in others for others in prompts)]
    won_by = winning_metric(answers) if shared else None
    for one, other, rates in win_rates(distinct, answers, shared, won_by) if won_by else ():
        put(figures, f"win.{one}.{other}", bootstrap_mean(rates))
        put(figures, f"win.{other}.{one}", bootstrap_mean(1 - rates))
    figures |= {"prompts": len(shared), "contests": contests}
    rows = [row for label in distinct for row in answers[label]]
    return Comparison(evaluations, distinct, figures, rows, shared, won_by)


def label_policies(evaluations: Sequence[Evaluation]) -> dict[tuple[str, str], str]:
    """A label for each (run, policy): its name, with the run's where policies of one name said different things."""
    said = {
        (run.name, policy): [(row["prompt"], row["answer"]) for row in run.answers if row["policy"] == policy]
        for run in evaluations
        for policy in run.config.policies
    }
    labels: dict[tuple[str, str], str] = {}
    for (run_name, policy), answers in said.items():
        alike = [other for other in labels if other[1] == policy and said[other] == answers]
        several = any(other[1] == policy and said[other] != answers for other in said)
        labels[run_name, policy] = (
            labels[alike[0]] if alike else f"{policy} ({run_name})" if several else policy
        )
    return labels


def renamed(run: Evaluation, labels: dict[str, str]) -> Figures:
    """The figures of a run under the labels of its policies."""
    figures = {key: value for key, value in run.figures.items() if key.startswith("signature.")}
    moved = [
        (f"{policy}.{metric}", f"{label}.{metric}")
        for policy, label in labels.items()
        for metric in metrics_of(run.figures, policy)
    ]
    moved += [
        (f"suite.{suite}.{policy}", f"suite.{suite}.{label}")
        for suite in run.config.suites
        for policy, label in labels.items()
    ]
    contests = [(rater, one, other) for rater, one, other in run.figures.get("contests", [])]
    moved += [
        (f"win_by.{rater}.{one}.{other}", f"win_by.{rater}.{labels[one]}.{labels[other]}")
        for rater, one, other in contests
    ]
    for before, after in moved:
        for key, value in run.figures.items():
            if key == before or key.startswith(f"{before}."):
                figures[after + key.removeprefix(before)] = value
    figures["contests"] = [[rater, labels[one], labels[other]] for rater, one, other in contests]
    return figures


def win_rates(
    labels: Sequence[str], answers: dict[str, list[Row]], shared: Sequence[str], metric: str
) -> Iterator[tuple[str, str, Array]]:
    """Of every two policies how often the first has the higher `metric`, prompt by prompt: (p, 1)."""
    values = {label: by_prompt(answers[label], metric) for label in labels}
    for i, one in enumerate(labels):
        for other in labels[:i]:
            rates = [wins(values[one][prompt], values[other][prompt]) for prompt in shared]
            yield one, other, np.concatenate(rates)


def winning_metric(answers: dict[str, list[Row]]) -> str | None:
    """What decides who wins: the first metric of WINNING that every answer has."""
    rows = [row for rows in answers.values() for row in rows]
    return next((metric for metric in WINNING if all(metric in row for row in rows)), None)


def by_prompt(rows: Sequence[Row], metric: str) -> dict[str, Array]:
    """The values of each prompt's samples, each (1, s)."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(conversation(row["prompt"]), []).append(row[metric])
    return {prompt: np.array([values], dtype=np.float64) for prompt, values in found.items()}
