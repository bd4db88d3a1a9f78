"""The demo's figures, its report.html, and what it prints at the end."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment import plots
from alignment.evaluation.report import comparison_plots, examples, headline, policies, win_rates
from alignment.report import Facts, Plots, Section, Table, Tile, number, percent, versions, write_report
from alignment.runs import RunFolder

NAMES = ("base", "dpo", "ppo")
CURVES = {  # run -> title -> the column of its metrics.jsonl
    "sft": {"SFT: loss": "loss"},
    "reward": {"Reward model: loss": "loss"},
    "dpo": {"DPO: loss": "loss", "DPO: pairs ordered as labelled": "rewards/accuracies"},
    "ppo": {
        "PPO: score (normalised)": "score_mean",
        "PPO: KL to the base (nats per answer)": "kl",
        "PPO: answer length (tokens)": "response_length",
    },
}


def summarize(folder: Path, seconds: Mapping[str, float], task: str, seed: int) -> dict[str, Any]:
    """The figures of summary.json, flat: those of the evaluation, the labels, seconds by step, memory."""
    from labeling.agreement import judges_against_people, people_agreement
    from labeling.figures.table import read_table
    from labeling.store import Store

    store = Store.open(str(folder / "store.db"), create=False)
    counts = store.counts()
    table = read_table(store)
    judges, people = judges_against_people(table), people_agreement(table)
    return {
        "seconds": sum(seconds.values()),
        "seed": seed,
        "task": task,
        **RunFolder(folder / "eval").summary,
        "reward.accuracy_on_labels": RunFolder(folder / "reward").summary.get("accuracy"),
        "comparisons": counts["comparisons"],
        "labels.human": counts.get("labels.human", 0) + counts.get("labels.scripted", 0),
        "labels.scripted": counts.get("labels.scripted", 0),
        "labels.judge": counts.get("labels.judge", 0),
        "agreement.judge_human": judges.agreement,
        "agreement.judge_human.compared": judges.compared,
        "agreement.people_alpha": people.alpha,
        **{f"seconds.{step}": value for step, value in seconds.items()},
        "memory.peak_gib": peak_memory(),
    }


def peak_memory() -> float:
    """The most memory that this process has held, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def write_demo_report(folder: Path, figures: Mapping[str, Any]) -> None:
    evaluation = RunFolder(folder / "eval")
    reward = Tile(
        "reward model: accuracy",
        percent(figures.get("reward.accuracy")),
        f"on {figures['reward.pairs']} clean held-out pairs of the base",
    )
    lead = (
        f"A small language model learned mixed habits from scratch (base). {figures['labels.human']:,} labels by "
        f"scripted annotators and {figures['labels.judge']:,} by a stand-in judge then taught it better ones, once "
        "with DPO and once with a reward model and PPO. An exact oracle checks the answers of all three to "
        f"{figures['prompts']:,} prompts that no step has seen, sampled at temperature 1."
    )
    sections: list[Section] = [
        headline(figures, NAMES, reward),
        policies(figures, NAMES),
        comparison_plots(figures, NAMES),
        *win_rates(figures, NAMES),
        examples(evaluation.rows("answers.jsonl"), NAMES, 6),
        training_curves(folder),
        labels(figures),
        steps(figures),
        Facts(
            "Made with", versions(), {path.name: path.read_text(encoding="utf-8") for path in configs(folder)}
        ),
    ]
    write_report(folder / "report.html", "From nothing to an aligned policy", lead, sections)


def training_curves(folder: Path) -> Plots:
    drawn: list[tuple[str, str]] = []
    for name, titles in CURVES.items():
        rows = RunFolder(folder / name).rows()
        for title, column in titles.items():
            points = [(index, row[column]) for index, row in enumerate(rows, 1) if column in row]
            if points:
                x, y = zip(*points, strict=True)
                drawn.append((title, plots.lines({title: (x, y)}, "logged step", first_color=len(drawn))))
    return Plots("How training went", drawn)


def labels(figures: Mapping[str, Any]) -> Facts:
    return Facts(
        "Labels",
        {
            "comparisons": number(figures["comparisons"]),
            "labels by scripted annotators": number(figures["labels.scripted"]),
            "labels by the stand-in judge": number(figures["labels.judge"]),
            "judge agrees with the annotators' majority": percent(figures["agreement.judge_human"]),
            "annotators among themselves (Krippendorff's alpha)": number(figures["agreement.people_alpha"]),
            "reward model on held-out labels": percent(figures["reward.accuracy_on_labels"]),
        },
        note="No person and no language model labelled here: the annotators are scripts, and the judge is a small "
        "server with noise, a bias for the first answer and some replies that are no verdict.",
    )


def steps(figures: Mapping[str, Any]) -> Table:
    rows = [[k.removeprefix("seconds."), f"{v:.1f}"] for k, v in figures.items() if k.startswith("seconds.")]
    total = [["all", f"{figures['seconds']:.1f}"], ["peak memory", f"{figures['memory.peak_gib']:.2f} GiB"]]
    return Table("Time", ["step", "seconds"], [*rows, *total])


def configs(folder: Path) -> Sequence[Path]:
    return [
        RunFolder(folder / name).path / "config.yaml" for name in ("sft", "rollout", "reward", "dpo", "ppo")
    ]


def print_demo(folder: Path, figures: Mapping[str, Any]) -> None:
    """The table, three examples, and where to go from here."""
    from rich.table import Table as Grid

    from alignment.console import output

    grid = Grid("on held-out prompts", *NAMES)
    shown = {
        "fully right": "success",
        "all facts": "complete",
        "none invented": "faithful",
        "polite": "polite",
    }
    for title, metric in shown.items():
        if f"base.{metric}" in figures:
            grid.add_row(title, *(percent(figures[f"{name}.{metric}"]) for name in NAMES))
    grid.add_row("KL to the base, nats", *(number(figures[f"{name}.kl"]) for name in NAMES))
    grid.add_row("length, tokens", *(number(figures[f"{name}.length"]) for name in NAMES))
    output.print()
    output.print(grid)
    rows = [json.loads(line) for line in (folder / "eval" / "answers.jsonl").open(encoding="utf-8")]
    for prompt, answers in examples(rows, NAMES, 3).examples:
        aside = Grid(*(f"{answer.name} ({answer.verdict})" for answer in answers), title_justify="left")
        aside.title = escape(prompt)
        aside.add_row(*(escape(answer.text) for answer in answers))
        output.print(aside)
    minutes = figures["seconds"] / 60
    output.print(f"{minutes:.1f} minutes, {figures['memory.peak_gib']:.1f} GiB at the most", markup=False)
    output.print(f"report:  {folder / 'report.html'}", markup=False, soft_wrap=True)
    output.print(f"label:   align label --store {folder / 'store.db'}", markup=False, soft_wrap=True)


def escape(text: str) -> str:
    from rich.markup import escape as markup_escape

    return markup_escape(text)
