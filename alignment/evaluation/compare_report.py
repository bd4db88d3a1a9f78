"""The page of `align eval --compare`: bars, score against KL, who wins over whom, answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment import plots
from alignment.config import to_yaml
from alignment.evaluation.names import SHARES, name_of
from alignment.evaluation.report import (
    comparison_plots,
    contest_rows,
    contest_table,
    conversation,
    examples,
    headline,
    lead_metric,
    measured,
    metrics_of,
    policies,
    rate,
    signatures,
    suites,
)
from alignment.report import Facts, Plots, Section, Table, versions, write_report

if TYPE_CHECKING:
    from alignment.evaluation.compare import Comparison

EXAMPLES = 12  # prompts shown


def write_comparison(path: Path, found: Comparison) -> None:
    figures, labels = found.figures, found.labels
    shared = set(found.shared)
    rows = [row for row in found.answers if conversation(row["prompt"]) in shared]
    suite_names = list(dict.fromkeys(suite for run in found.evaluations for suite in run.config.suites))
    configs = {f"{run.name}/config.yaml": to_yaml(run.config) for run in found.evaluations}
    sections: list[Section] = [
        headline(figures, labels),
        comparison_plots(figures, labels),
        policies(figures, labels),
        *bars(figures, labels),
        *matrix(found),
        *contest_table("By a reward model, a judge or people", contest_rows(figures)),
        *suites(figures, suite_names, labels),
        *([examples(rows, labels, EXAMPLES)] if found.shared else []),
        Facts("Made with", versions() | signatures(figures), configs),
    ]
    write_report(path, f"{len(found.evaluations)} evaluations compared", lead(found), sections)


def lead(found: Comparison) -> str:
    runs = found.evaluations
    asked = {run.name: len({conversation(row["prompt"]) for row in run.answers}) for run in runs}
    text = f"{len(found.labels)} policies of {', '.join(asked)}. "
    if all(count == len(found.shared) for count in asked.values()):
        text += f"All answered the same {len(found.shared):,} prompts."
    else:
        counts = ", ".join(f"{count:,} in {name}" for name, count in asked.items())
        text += (
            f"They did not answer the same prompts ({counts}; {len(found.shared):,} in common), so means of different "
            "runs may not be comparable; win rates and examples are on the common ones."
        )
    references = {run.config.policies[run.config.reference] for run in runs}
    if len(references) > 1:
        text += f" KL is measured to different models ({', '.join(sorted(references))})."
    return text


def bars(figures: Mapping[str, Any], labels: Sequence[str]) -> list[Section]:
    """A plot for each metric that more than one policy has, but for the headline's, which stands above."""
    metrics = dict.fromkeys(m for label in labels for m in metrics_of(figures, label))
    drawn = []
    for metric in metrics:
        values, spans = measured(figures, labels, metric)
        if len(values) > 1 and metric != lead_metric(figures, labels):
            svg = plots.bars(values, spans, as_percent=metric in SHARES)
            drawn.append((name_of(metric), svg))
    return [Plots("Each figure", drawn, "Bars are means, lines 95% intervals.")] if drawn else []


def matrix(found: Comparison) -> list[Section]:
    """Rows win over columns."""
    if not found.won_by:
        return []
    rows = [
        [
            one,
            *("–" if one == other else rate(found.figures, f"win.{one}.{other}") for other in found.labels),
        ]
        for one in found.labels
    ]
    note = (
        f"How often the row's answer has the higher {name_of(found.won_by)}, on the prompts that all answered, ties "
        "counted half; in brackets 95% intervals from a bootstrap over prompts."
    )
    return [Table("Who wins over whom", ["", *found.labels], rows, note)]
