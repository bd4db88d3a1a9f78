"""The page of `align reward eval --out`: accuracy with its intervals, and whether the scores say how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment import plots
from alignment.console import output
from alignment.files import write_json
from alignment.report import (
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

if TYPE_CHECKING:
    from reward.calibration import Bin

MOST_BARS = 8  # more of them than this would not be read


def write_reward_report(
    folder: Path, model: str, data: str, figures: Mapping[str, Any], bins: Sequence[Bin]
) -> None:
    """figures.json and report.html in `folder`. bins: of the reliability diagram; none for a benchmark."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "figures.json", dict(figures))
    sections = benchmark_sections(figures) if "benchmark" in figures else pair_sections(figures, bins)
    facts = Facts("What this was", {"reward model": model, "data": data, **versions()})
    write_report(folder / "report.html", "Reward model", f"{model} on {data}", [*sections, facts])


def pair_sections(figures: Mapping[str, Any], bins: Sequence[Bin]) -> list[Section]:
    parts = {"all": figures, **figures["by_source"]}
    tiles = [
        Tile("accuracy", percent(figures["accuracy"]), interval(figures)),
        Tile("calibration error", number(figures["ece"]), f"temperature {number(figures['temperature'])}"),
        Tile(
            "longer scored higher",
            percent(figures["longer_scored_higher"]),
            f"labels prefer the longer in {percent(figures['longer_preferred'])}",
        ),
    ]
    diagram = {
        "as it should be": ([0.5, 1.0], [0.5, 1.0]),
        "this model": ([b.confidence for b in bins], [b.outcome for b in bins]),
    }
    return [
        Tiles(tiles),
        Plots(
            "Accuracy, and how sure it is rightly",
            [
                ("Agreement with the labels, by source", accuracy_bars(parts)),
                (
                    "Share that is right, by the model's confidence",
                    plots.lines(diagram, "confidence", as_percent=True),
                ),
            ],
            note="Bars show the 95% interval, drawn by prompts. Below the straight line the model is too sure.",
        ),
        accuracy_table("By source", parts, "pairs"),
    ]


def benchmark_sections(figures: Mapping[str, Any]) -> list[Section]:
    tiles = [Tile(name, percent(share)) for name, share in figures["sections"].items()]
    found: list[Section] = [
        Tiles(
            [
                Tile(figures["benchmark"], percent(figures["score"]), f"{figures['questions']} questions"),
                *tiles,
            ]
        )
    ]
    if len(figures["subsets"]) <= MOST_BARS:
        found.append(
            Plots("By subset", [("Credit, with its 95% interval", accuracy_bars(figures["subsets"]))])
        )
    return [*found, accuracy_table("By subset", figures["subsets"], "questions")]


def print_figures(figures: Mapping[str, Any]) -> None:
    """The same for the terminal."""
    from rich.table import Table as Screen

    if "benchmark" in figures:
        parts, counted = figures["subsets"], "questions"
        named = "  ".join(f"{name} {percent(share)}" for name, share in figures["sections"].items())
        lead = f"{figures['benchmark']}: {percent(figures['score'])}   {named}"
    else:
        parts, counted = {"all": figures, **figures["by_source"]}, "pairs"
        lead = (
            f"calibration error {number(figures['ece'])}, temperature {number(figures['temperature'])}; the longer "
            f"answer scores higher in {percent(figures['longer_scored_higher'])} and is preferred in "
            f"{percent(figures['longer_preferred'])} of the pairs"
        )
    table = accuracy_table("", parts, counted)
    screen = Screen(*table.columns, title=None)
    for row in table.rows:
        screen.add_row(*row)
    output.print(screen)
    output.print(lead, markup=False, soft_wrap=True)


def accuracy_bars(parts: Mapping[str, Mapping[str, Any]]) -> str:
    shown = {name: part for name, part in parts.items() if part["accuracy"] is not None}
    return plots.bars(
        {name: part["accuracy"] for name, part in shown.items()},
        {
            name: (part["accuracy_low"], part["accuracy_high"])
            for name, part in shown.items()
            if "accuracy_low" in part
        },
        as_percent=True,
    )


def accuracy_table(title: str, parts: Mapping[str, Mapping[str, Any]], counted: str) -> Table:
    rows = [
        (name, percent(part["accuracy"]), interval(part), number(part[counted]))
        for name, part in parts.items()
    ]
    return Table(title, ("", "accuracy", "95% interval", counted), rows)


def interval(part: Mapping[str, Any]) -> str:
    if part.get("accuracy_low") is None:
        return ""
    return f"{percent(part['accuracy_low'])} to {percent(part['accuracy_high'])}"
