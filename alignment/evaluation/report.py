"""What a run of `align eval` looks like in its report; the demo's report shows the same pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from alignment import plots
from alignment.config import to_yaml
from alignment.evaluation.config import EvalConfig
from alignment.evaluation.names import CHECKED, LEAD_METRICS, REFUSALS, SHARES, name_of
from alignment.report import (
    Answer,
    Examples,
    Facts,
    Plots,
    Section,
    Table,
    Tile,
    Tiles,
    number,
    percent,
    versions,
    write_report,
)


def write_evaluation_report(
    path: Path, config: EvalConfig, figures: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """report.html of an evaluation: headline, table, plots, win rates, examples, config."""
    names = list(config.policies)
    lead = (
        f"{len(names)} policies answer {figures['prompts']:,} held-out prompts, {config.samples} "
        f"sample{'s' if config.samples > 1 else ''} each at temperature {config.sampling.temperature:g}. "
        f"KL is measured to {config.reference}."
    )
    sections: list[Section] = [
        headline(figures, names),
        policies(figures, names),
        comparison_plots(figures, names),
        *win_rates(figures, names),
        *suites(figures, list(config.suites), names),
        examples(rows, names, config.examples),
        Facts("Made with", versions() | signatures(figures), {"config.yaml": to_yaml(config)}),
    ]
    write_report(path, f"Evaluation: {', '.join(names)}", lead, sections)


def signatures(figures: Mapping[str, Any]) -> dict[str, str]:
    """How sacrebleu's metrics were computed, in its own words."""
    return {name_of(m): figures[f"signature.{m}"] for m in ("bleu", "chrf") if f"signature.{m}" in figures}


def metrics_of(figures: Mapping[str, Any], name: str) -> list[str]:
    """The metrics that were measured of a policy, in order, the headline first."""
    found = [key.removeprefix(f"{name}.").removesuffix(".low") for key in figures if key.endswith(".low")]
    measured = [m for m in found if f"{name}.{m}.low" in figures]
    return sorted(measured, key=lambda m: m != lead_metric(figures, [name]))


def lead_metric(figures: Mapping[str, Any], names: Sequence[str]) -> str:
    """The metric by which policies are judged first: of those that were measured of all."""
    return next((m for m in LEAD_METRICS if all(f"{name}.{m}" in figures for name in names)), "length")


def headline(figures: Mapping[str, Any], names: Sequence[str], *more: Tile) -> Tiles:
    """The first metric of each policy, large."""
    metric = lead_metric(figures, names)
    tiles = [
        Tile(
            f"{name}: {name_of(metric)}",
            shown(metric, figures[f"{name}.{metric}"]),
            f"95% interval {interval(figures, name, metric)}",
            series,
        )
        for series, name in enumerate(names)
    ]
    return Tiles([*tiles, *more])


def policies(figures: Mapping[str, Any], names: Sequence[str]) -> Table:
    metrics = list(dict.fromkeys(m for name in names for m in metrics_of(figures, name)))
    return Table(
        "Policies",
        ["", *names],
        [[name_of(m), *(cell(figures, name, m) for name in names)] for m in metrics],
        "Means over the held-out prompts; in brackets 95% intervals from a bootstrap over prompts.",
    )


def cell(figures: Mapping[str, Any], name: str, metric: str) -> str:
    if f"{name}.{metric}" not in figures:
        return "–"
    return f"{shown(metric, figures[f'{name}.{metric}'])} ({interval(figures, name, metric)})"


def interval(figures: Mapping[str, Any], name: str, metric: str) -> str:
    low, high = (shown(metric, figures[f"{name}.{metric}.{end}"]) for end in ("low", "high"))
    return f"{low.removesuffix('%')}–{high}" if metric in SHARES else f"{low} to {high}"


def shown(metric: str, value: float) -> str:
    return percent(value) if metric in SHARES else number(value)


def comparison_plots(figures: Mapping[str, Any], names: Sequence[str]) -> Plots:
    """The headline metric as bars, and against KL where that was measured; shares of the check beside them."""
    metric = lead_metric(figures, names)
    title, share = name_of(metric), metric in SHARES
    values, spans = measured(figures, names, metric)
    shown_plots = [(title.capitalize(), plots.bars(values, spans, as_percent=share))]
    points = {name: (figures[f"{name}.kl"], values[name]) for name in names if f"{name}.kl" in figures}
    if points:
        svg = plots.trade_off(points, spans, "KL to the reference (nats per answer)", as_percent=share)
        shown_plots.append((f"{title.capitalize()} against KL", svg))
    return Plots("What was gained, and how far the policy moved", shown_plots)


def measured(
    figures: Mapping[str, Any], names: Sequence[str], metric: str
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """A metric of each policy that has it, and its interval."""
    having = [name for name in names if f"{name}.{metric}" in figures]
    spans = {n: (figures[f"{n}.{metric}.low"], figures[f"{n}.{metric}.high"]) for n in having}
    return {name: figures[f"{name}.{metric}"] for name in having}, spans


def win_rates(figures: Mapping[str, Any], names: Sequence[str]) -> list[Section]:
    """One row for each two policies and whoever compared them, if answers were compared at all."""
    by_check = [
        [f"{one} against {other}", "the check", rate(figures, f"win.{one}.{other}"), "–", "–", "–"]
        for one, other in permutations(names, 2)
        if f"win.{one}.{other}" in figures
    ]
    return contest_table("Win rates", by_check + contest_rows(figures))


def contest_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """Of each contest of `contests` who compared which two policies, and what came of it."""
    return [
        [
            f"{one} against {other}",
            rater,
            rate(figures, key),
            rate(figures, f"{key}.length_controlled"),
            labelled(figures, key),
            percent(figures.get(f"{key}.order_consistent")),
        ]
        for rater, one, other in figures.get("contests", [])
        for key in [f"win_by.{rater}.{one}.{other}"]
    ]


def contest_table(title: str, rows: Sequence[Sequence[str]]) -> list[Section]:
    note = (
        "How often an answer is the better one, ties counted half; in brackets 95% intervals from a bootstrap over "
        "prompts. Length-controlled: the rate if answers were equally long (AlpacaEval 2's regression). Answers with "
        "the same text are a tie and empty ones lose, without anybody being asked."
    )
    columns = ["", "by", "wins", "length-controlled", "labels", "same in both orders"]
    return [Table(title, columns, rows, note)] if rows else []


def suites(figures: Mapping[str, Any], suite_names: Sequence[str], names: Sequence[str]) -> list[Section]:
    """What each policy refuses that it should answer, and answers that it should refuse."""
    rows = [
        [
            f"{suite}: {name_of(metric)}",
            *(cell(figures, f"suite.{suite}.{name}", metric) for name in names),
        ]
        for suite in suite_names
        for metric in (*REFUSALS, "toxic", "toxicity")
        if any(f"suite.{suite}.{name}.{metric}" in figures for name in names)
    ]
    note = (
        "Over-refusal: of the prompts that should be answered, how many are refused; under-refusal: of those that "
        "should be refused, how many are not. In brackets 95% intervals from a bootstrap over prompts."
    )
    return [Table("Suites", ["", *names], rows, note)] if rows else []


def rate(figures: Mapping[str, Any], key: str) -> str:
    """A share and its interval."""
    if key not in figures:
        return "–"
    low, high = (percent(figures[f"{key}.{end}"]).removesuffix("%") for end in ("low", "high"))
    return f"{percent(figures[key])} ({low}–{high})"


def labelled(figures: Mapping[str, Any], key: str) -> str:
    """How many comparisons have a label, and of the others why not."""
    if f"{key}.labelled" not in figures:
        return "–"
    others = {what: figures[f"{key}.{what}"] for what in ("settled", "failed", "waiting")}
    return ", ".join([str(figures[f"{key}.labelled"]), *(f"{n} {what}" for what, n in others.items() if n)])


def examples(rows: Sequence[Mapping[str, Any]], names: Sequence[str], count: int) -> Examples:
    """The first `count` prompts, each policy's first answer beside the others'."""
    by_prompt: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_prompt.setdefault(conversation(row["prompt"]), {}).setdefault(row["policy"], row)
    chosen = list(by_prompt.items())[:count]
    return Examples(
        "Examples",
        [(text, [as_answer(name, answers[name]) for name in names]) for text, answers in chosen],
        "The first prompts of the file, not picked. Each policy's first sample.",
    )


def as_answer(name: str, row: Mapping[str, Any]) -> Answer:
    text = row["answer"] or "(empty)"
    if "success" not in row:
        lead = next((metric for metric in LEAD_METRICS if metric in row), None)
        return Answer(name, text, f"{name_of(lead)} {number(row[lead])}" if lead else "")
    faults = [metric for metric in CHECKED if row.get(metric) == 0]
    if row["success"]:
        return Answer(name, text, "fully right", True)
    return Answer(name, text, "not " + ", ".join(faults) if faults else "not right", False)


def conversation(messages: Sequence[Mapping[str, str]]) -> str:
    """A prompt as text; roles are named only where there is more than one turn."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)
