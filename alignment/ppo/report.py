"""report.html of a PPO run: what it reached, its curves, what reward cost in KL, its alarms, some answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignment import plots
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
from alignment.runs import RunFolder

CURVES = {
    "score_mean": "score (normalised)",
    "kl": "KL to the reference (nats an answer)",
    "response_length": "answer length (tokens)",
    "truncated": "truncated answers (share)",
    "entropy": "entropy (nats a token)",
    "disagreement": "disagreement of the reward ensemble (standard deviations)",
    "explained_variance": "explained variance of the critic",
    "policy_clipped": "clipped ratios (share)",
    "update_kl": "KL of an iteration's update (nats a token)",
}
SHOWN = 6  # samples


def write_ppo_report(run: RunFolder, figures: Mapping[str, Any]) -> None:
    rows, samples = run.rows(), run.rows("samples.jsonl")
    last = rows[-1]
    lead = (
        f"{len(rows)} iterations of {figures['episodes'] // len(rows)} answers. Scores are the reward model's, in its "
        "standard deviations; KL is to the policy that the run started from."
    )
    tiles = [
        Tile("score", number(last["score_mean"]), f"{number(rows[0]['score_mean'])} at first"),
        Tile("KL, nats an answer", number(last["kl"])),
        Tile(
            "tokens an answer",
            number(last["response_length"]),
            f"{number(rows[0]['response_length'])} at first",
        ),
        Tile("truncated", percent(last["truncated"])),
    ]
    iterations = [row["iteration"] for row in rows]
    curves = [
        (title, plots.lines({title: (iterations, [row[key] for row in rows])}, "iteration"))
        for key, title in CURVES.items()
        if key in last
    ]
    frontier = plots.lines(
        {"score": ([row["kl"] for row in rows], [row["score_mean"] for row in rows])},
        "KL to the reference, nats",
    )
    sections: list[Section] = [
        Tiles(tiles),
        Plots("How it went", [("what the score cost: score against KL", frontier), *curves]),
        alarm_table(run.rows("alarms.jsonl")),
        *([sampled(samples)] if samples else []),
        Table(
            "Time",
            ["phase", "seconds an iteration"],
            [[k, f"{v:.2f}"] for k, v in figures["seconds"].items()],
        ),
        Facts(
            "Made with", versions(), {"config.yaml": (run.path / "config.yaml").read_text(encoding="utf-8")}
        ),
    ]
    write_report(run.report, f"PPO: {run.path.name}", lead, sections)


def alarm_table(alarms: Sequence[Mapping[str, Any]]) -> Table:
    rows = [[str(alarm["iteration"]), alarm["alarm"], alarm["words"]] for alarm in alarms]
    return Table("Alarms", ["iteration", "alarm", "what to do"], rows, note="" if rows else "None.")


def sampled(samples: Sequence[Mapping[str, Any]]) -> Examples:
    newest = [one for one in samples if one["iteration"] == samples[-1]["iteration"]][:SHOWN]
    examples = [
        (one["prompt"], [Answer(f"iteration {one['iteration']}", one["answer"], f"score {one['score']:.2f}")])
        for one in newest
    ]
    return Examples("Answers of the last iteration that was sampled", examples)
