"""report.html of a PPO run: what it reached, its curves, what reward cost in KL, its alarms, some answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignment import plots
from alignment.ppo.probe import ROWS as PROBE
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
SHOWN_SHARE = 0.02  # of the time, from which on a phase is drawn


def write_ppo_report(run: RunFolder, figures: Mapping[str, Any]) -> None:
    rows, probes, samples = run.rows(), run.rows(PROBE), run.rows("samples.jsonl")
    lead = (
        f"{len(rows)} iterations of {figures['episodes'] // len(rows)} answers. Scores are the reward's (a reward "
        "model's in its standard deviations); KL is to the policy that the run started from."
    )
    sections: list[Section] = [
        Tiles(tiles(rows, figures)),
        *([probed(probes)] if len(probes) > 1 else []),
        Plots("How it went", curves(rows)),
        alarm_table(run.rows("alarms.jsonl")),
        *([sampled(samples)] if samples else []),
        *time_spent(run.rows("timings.jsonl"), figures["seconds"]),
        Facts(
            "Made with", versions(), {"config.yaml": (run.path / "config.yaml").read_text(encoding="utf-8")}
        ),
    ]
    write_report(run.report, f"PPO: {run.path.name}", lead, sections)


def tiles(rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Any]) -> list[Tile]:
    first, last = rows[0], rows[-1]
    shown = [
        Tile("score", number(last["score_mean"]), f"{number(first['score_mean'])} at first"),
        Tile("KL, nats an answer", number(last["kl"])),
        Tile(
            "tokens an answer",
            number(last["response_length"]),
            f"{number(first['response_length'])} at first",
        ),
        Tile("truncated", percent(last["truncated"])),
    ]
    if best := figures.get("best"):
        detail = f"after iteration {best['iteration']}; {number(figures['gold']['first'])} at first"
        shown.append(Tile("best gold score", number(best["gold_mean"]), detail))
    return shown


def curves(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The score against what it cost in KL, and every metric that was measured by iteration."""
    frontier = plots.lines(
        {"score": ([row["kl"] for row in rows], [row["score_mean"] for row in rows])},
        "KL to the reference, nats",
    )
    iterations = [row["iteration"] for row in rows]
    by_iteration = [
        (title, plots.lines({title: (iterations, [row[key] for row in rows])}, "iteration"))
        for key, title in CURVES.items()
        if key in rows[-1]
    ]
    return [("what the score cost: score against KL", frontier), *by_iteration]


def probed(probes: Sequence[Mapping[str, Any]]) -> Plots:
    """Gold score and reward of the same answers; where they part, the reward is being gamed."""
    first = probes[0]

    def gains(x: str) -> str:
        series = {}
        for key, name in (("proxy", "reward"), ("gold", "gold score")):
            spread = first[f"{key}_std"] or 1.0
            gain = [(row[f"{key}_mean"] - first[f"{key}_mean"]) / spread for row in probes]
            series[name] = ([row[x] for row in probes], gain)
        return plots.lines(series, "KL to the reference, nats" if x == "kl" else x, first_color=1)

    note = (
        f"{first['answers']} held-out prompts, {len(probes)} probes. Gains since the first probe, in standard "
        "deviations of its scores. While both rise, the reward stands for what is wanted; where the gold score turns, "
        "it no longer does. The policy with the highest gold score is in best/."
    )
    return Plots(
        "Probe: gold score against reward",
        [("by KL", gains("kl")), ("by iteration", gains("iteration"))],
        note,
    )


def time_spent(timings: Sequence[Mapping[str, Any]], seconds: Mapping[str, float]) -> list[Section]:
    """Mean seconds by phase, and how seconds and speed went."""
    total = sum(seconds.values())
    rows = [[phase, number(spent), percent(spent / total)] for phase, spent in seconds.items()]
    table = Table("Time", ["phase", "seconds an iteration", "share"], rows)
    if not timings:
        return [table]
    iterations = [row["iteration"] for row in timings]
    speeds = [row["tokens_per_second"]["all"] for row in timings]
    phases = {
        phase: ([row["iteration"] for row in timings if phase in row["seconds"]], spent)
        for phase in seconds
        if seconds[phase] >= SHOWN_SHARE * total
        and (spent := [row["seconds"][phase] for row in timings if phase in row["seconds"]])
    }
    return [
        table,
        Plots(
            "Speed",
            [
                ("seconds by phase", plots.lines(phases, "iteration")),
                (
                    "tokens sampled and learned from, a second",
                    plots.lines({"": (iterations, speeds)}, "iteration"),
                ),
            ],
        ),
    ]


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
