"""`align reward train|eval|calibrate|score|rate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignment.cli import options

app = typer.Typer(
    help="Reward models: train one on preferences, measure it, score answers with it.", no_args_is_help=True
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Reward model: a folder or a run.")]


@app.command("train")
def train(
    overrides: options.Overrides = None,
    config: options.Config = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Train a reward model on preference pairs, hard or soft.

    Example: [bold]align reward train --config configs/reward.yaml data=snapshots/3f2a epochs=1[/bold]
    """
    from alignment.config import load_config, to_yaml
    from alignment.console import note, print_json, print_plan
    from alignment.reward_study import tell
    from alignment.rewards import RewardRunConfig, plan, train_reward_model

    settings = load_config(RewardRunConfig, config, overrides or [])
    if dry_run:
        return print_plan(to_yaml(settings), plan(settings))
    figures = train_reward_model(settings, overwrite=overwrite)
    if as_json:
        return print_json(figures)
    note(f"reward: {describe(figures)}")
    tell(figures.get("study", {}))
    note(f"reward: the model is in {settings.run}/model")


@app.command("eval")
def evaluate(
    model: Model,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Snapshot folder (its held-out pairs), a file of pairs, or of RewardBench, RewardBench 2 or RM-Bench.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Where figures.json and report.html go.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure a reward model: accuracy with its interval, calibration, liking for length, by source or subset.

    Example: [bold]align reward eval runs/reward reward-bench-2.parquet --out runs/reward/bench[/bold]
    """
    from alignment.console import note, print_json
    from alignment.reward_report import print_figures
    from alignment.scoring import evaluate_reward

    figures = evaluate_reward(model, data, out)
    if as_json:
        return print_json(figures)
    for reason, count in figures.get("left_out", {}).items():
        note(f"left out {count} pairs: {reason}")
    print_figures(figures)
    if out:
        note(f"reward: the report is {out}/report.html")


@app.command("calibrate")
def calibrate(
    model: Model,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Held-out pairs: a snapshot folder or a file.")],
    as_json: options.Json = False,
) -> None:
    """Keep in a model's folder how sure its scores are, and their mean and spread, which PPO normalises by.

    `align reward train` does this on its own held-out pairs; do it for other pairs, or for a model trained elsewhere.

    Example: [bold]align reward calibrate models/their-reward-model pairs.jsonl[/bold]
    """
    from alignment.console import note, print_json
    from alignment.scoring import calibrate_reward

    figures = calibrate_reward(model, data)
    if as_json:
        return print_json(figures)
    note(
        "reward: temperature {temperature:.3g}: calibration error {ece_before:.3f} before, {ece_after:.3f} after; "
        "scores {score_mean:.3g} +- {score_std:.3g} of {scored} answers".format(**figures)
    )


@app.command("score")
def score(
    model: Model,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSONL or Parquet: messages, or prompt and completion.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where the rows with scores go (JSONL).")
    ],
    as_json: options.Json = False,
) -> None:
    """Score answers: every row of a file gets a `score`. Interrupted, the same command goes on where it was.

    Example: [bold]align reward score runs/reward answers.jsonl --out scored.jsonl[/bold]
    """
    from alignment.console import note, print_json
    from alignment.scored_file import score_file

    figures = score_file(model, file, out)
    if as_json:
        return print_json(figures)
    note("{rows} answers scored, mean {mean:.3f} ({lowest:.3f} to {highest:.3f})".format(**figures))
    note(f"they are in {out}")


@app.command("rate")
def rate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Reward models: several, or one trained with members=4."),
    ],
    store: options.Store = options.DEFAULT_STORE,
    as_json: options.Json = False,
) -> None:
    """Rate what waits for labels by how far reward models disagree on it: the queue's policy `uncertainty` reads that.

    Example: [bold]align reward rate runs/reward --store align.db[/bold]
    """
    from alignment.console import note, print_json
    from alignment.disagreement import rate_comparisons
    from labeling.store import Store

    figures = rate_comparisons(Store.open(store, create=False), models)
    if as_json:
        return print_json(figures)
    note("{comparisons} comparisons rated: mean {mean:.3f}, highest {highest:.3f}".format(**figures))


def describe(figures: dict[str, float]) -> str:
    """Held-out figures as one line."""
    if figures.get("accuracy") is None:
        return "no held-out pairs with a preference"
    return (
        "accuracy {accuracy:.3f} ({accuracy_low:.3f} to {accuracy_high:.3f}) on {pairs} pairs, "
        "{ties} ties apart; calibration error {ece:.3f}".format(**figures)
    )
