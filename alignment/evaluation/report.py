"""What a run of `align eval` looks like in its report; the demo's report shows the same pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from alignment import plots
from alignment.config import to_yaml
from alignment.evaluation.config import EvalConfig
from alignment.evaluation.metrics import METRICS
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

REFUSALS = ("over_refusal", "under_refusal")
SHARES = {
    "success",
    "complete",
    "faithful",
    "polite",
    "wellformed",
    "truncated",
    "exact_match",
    "toxic",
    *REFUSALS,
}  # in percent
CHECKED = ("complete", "faithful", "polite", "wellformed")  # by the demo's checks; what a wrong answer lacks
LEAD_METRICS = (
    "success",
    "quality",
    "reward",
    *METRICS,
)  # the first of these that was measured is the headline
NAMES = {
    "kl": "KL (nats)",
    "kl_k3": "KL, k3 (nats)",
    "length": "length (tokens)",
    "success": "fully right",
    "exact_match": "exact match",
    "f1": "F1 of words",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "over_refusal": "over-refusal",
    "under_refusal": "under-refusal",
    "toxic": "holds a listed word",
    "perplexity": "perplexity of the text",
    "bits_per_byte": "bits per byte of the text",
}


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
    return {NAMES[m]: figures[f"signature.{m}"] for m in ("bleu", "chrf") if f"signature.{m}" in figures}


def metrics_of(figures: Mapping[str, Any], name: str) -> list[str]:
    """The metrics that were measured of a policy, in order, the headline first."""
    found = [key.removeprefix(f"{name}.").removesuffix(".low") for key in figures if key.endswith(".low")]
    measured = [m for m in found if f"{name}.{m}.low" in figures]
    return sorted(measured, key=lambda m: m != lead_metric(figures, name))


def lead_metric(figures: Mapping[str, Any], name: str) -> str:
    return next((m for m in LEAD_METRICS if f"{name}.{m}" in figures), "length")


def headline(figures: Mapping[str, Any], names: Sequence[str], *more: Tile) -> Tiles:
    """The first metric of each policy, large."""
    metric = lead_metric(figures, names[0])
    tiles = [
        Tile(
            f"{name}: {NAMES.get(metric, metric)}",
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
        [[NAMES.get(m, m), *(cell(figures, name, m) for name in names)] for m in metrics],
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
    metric = lead_metric(figures, names[0])
    title, share = NAMES.get(metric, metric), metric in SHARES
    values = {name: figures[f"{name}.{metric}"] for name in names}
    spans = {name: (figures[f"{name}.{metric}.low"], figures[f"{name}.{metric}.high"]) for name in names}
    shown_plots = [(title.capitalize(), plots.bars(values, spans, as_percent=share))]
    points = {name: (figures[f"{name}.kl"], values[name]) for name in names if f"{name}.kl" in figures}
    if points:
        svg = plots.trade_off(points, spans, "KL to the reference (nats per answer)", as_percent=share)
        shown_plots.append((f"{title.capitalize()} against KL", svg))
    return Plots("What was gained, and how far the policy moved", shown_plots)


def win_rates(figures: Mapping[str, Any], names: Sequence[str]) -> list[Section]:
    """One row for each two policies and whoever compared them, if answers were compared at all."""
    rows = [
        [f"{one} against {other}", "the check", *rate(figures, f"win.{one}.{other}"), "–", "–", "–"]
        for one, other in permutations(names, 2)
        if f"win.{one}.{other}" in figures
    ]
    for key in contested(figures):
        for one, other in permutations(names, 2):
            if key.endswith(f".{one}.{other}"):
                rater = key.removeprefix("win_by.").removesuffix(f".{one}.{other}")
                rows.append(
                    [
                        f"{one} against {other}",
                        rater,
                        *rate(figures, key),
                        " ".join(rate(figures, f"{key}.length_controlled")),
                        labelled(figures, key),
                        percent(figures.get(f"{key}.order_consistent")),
                    ]
                )
    note = (
        "How often an answer is the better one, ties counted half, with 95% intervals from a bootstrap over prompts. "
        "Length-controlled: the rate if answers were equally long (AlpacaEval 2's regression). Answers with the same "
        "text are a tie and empty ones lose, without anybody being asked."
    )
    columns = ["", "by", "wins", "95% interval", "length-controlled", "labels", "same in both orders"]
    return [Table("Win rates", columns, rows, note)] if rows else []


def suites(figures: Mapping[str, Any], suite_names: Sequence[str], names: Sequence[str]) -> list[Section]:
    """What each policy refuses that it should answer, and answers that it should refuse."""
    rows = [
        [
            f"{suite}: {NAMES.get(metric, metric)}",
            *(cell(figures, f"suite.{suite}.{name}", metric) for name in names),
        ]
        for suite in suite_names
        for metric in (*REFUSALS, "toxic", "toxicity")
        if f"suite.{suite}.{names[0]}.{metric}" in figures
    ]
    note = (
        "Over-refusal: of the prompts that should be answered, how many are refused; under-refusal: of those that "
        "should be refused, how many are not. In brackets 95% intervals from a bootstrap over prompts."
    )
    return [Table("Suites", ["", *names], rows, note)] if rows else []


def contested(figures: Mapping[str, Any]) -> list[str]:
    """The keys win_by.RATER.ONE.OTHER."""
    low = [key.removesuffix(".low") for key in figures if key.startswith("win_by.") and key.endswith(".low")]
    return [key for key in low if not key.endswith(".length_controlled")]


def rate(figures: Mapping[str, Any], key: str) -> tuple[str, str]:
    """A rate and its interval."""
    if key not in figures:
        return "–", ""
    return percent(figures[key]), f"{percent(figures[f'{key}.low'])} – {percent(figures[f'{key}.high'])}"


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
        measured = next((metric for metric in LEAD_METRICS if metric in row), None)
        return Answer(
            name, text, f"{NAMES.get(measured, measured)} {number(row[measured])}" if measured else ""
        )
    faults = [metric for metric in CHECKED if row.get(metric) == 0]
    if row["success"]:
        return Answer(name, text, "fully right", True)
    return Answer(name, text, "not " + ", ".join(faults) if faults else "not right", False)


def conversation(messages: Sequence[Mapping[str, str]]) -> str:
    """A prompt as text; roles are named only where there is more than one turn."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)
