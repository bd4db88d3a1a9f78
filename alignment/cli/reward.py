"""`align reward train|eval|score`."""

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
    from alignment.rewards import RewardRunConfig, plan, train_reward_model

    settings = load_config(RewardRunConfig, config, overrides or [])
    if dry_run:
        return print_plan(to_yaml(settings), plan(settings))
    figures = train_reward_model(settings, overwrite=overwrite)
    if as_json:
        return print_json(figures)
    note(f"reward: {describe(figures)}")
    note(f"reward: the model is in {settings.run}/model")


@app.command("eval")
def evaluate(
    model: Model,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Snapshot folder (its held-out pairs) or a file.")
    ],
    as_json: options.Json = False,
) -> None:
    """Measure a reward model on preference pairs: accuracy with its interval, calibration, by source.

    Example: [bold]align reward eval runs/reward pairs.jsonl --json[/bold]
    """
    from alignment.console import note, print_json
    from alignment.scoring import evaluate_reward

    figures = evaluate_reward(model, data)
    if as_json:
        return print_json(figures)
    for reason, count in figures["left_out"].items():
        note(f"left out {count} pairs: {reason}")
    note(f"all: {describe(figures)}")
    for source, part in figures["by_source"].items():
        note(f"{source}: {describe(part)}")


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
    """Score answers: every row of a file gets a `score`.

    Example: [bold]align reward score runs/reward answers.jsonl --out scored.jsonl[/bold]
    """
    from alignment.console import note, print_json
    from alignment.scoring import score_file

    figures = score_file(model, file, out)
    if as_json:
        return print_json(figures)
    note("{rows} answers scored, mean {mean:.3f} ({lowest:.3f} to {highest:.3f})".format(**figures))
    note(f"they are in {out}")


def describe(figures: dict[str, float]) -> str:
    """Held-out figures as one line."""
    if figures.get("accuracy") is None:
        return "no held-out pairs with a preference"
    return (
        "accuracy {accuracy:.3f} ({accuracy_low:.3f} to {accuracy_high:.3f}) on {pairs} pairs, "
        "{ties} ties apart; calibration error {ece:.3f}".format(**figures)
    )
