"""`align eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignment.cli import options


def evaluate(
    overrides: options.Overrides = None,
    config: options.Config = None,
    overwrite: options.Overwrite = False,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels",
            help="Read the labels of a run's comparisons; the run folder takes the place of KEY=VALUE.",
        ),
    ] = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Compare policies on held-out prompts: checks, task metrics, reward, KL, perplexity, win rates.

    Example: [bold]align eval --config configs/eval.yaml policies.dpo=runs/dpo samples=4[/bold]

    With comparisons.store a judge or people compare the answers: [bold]align eval --labels runs/eval[/bold]
    """
    if labels:
        return read_labels(only_run(overrides or []), as_json=as_json)
    from alignment.config import load_config, to_yaml
    from alignment.console import note, print_json, print_plan
    from alignment.evaluation.config import EvalConfig

    settings = load_config(EvalConfig, config, overrides or [])
    from alignment.evaluation import run

    if dry_run:
        print_plan(to_yaml(settings), run.plan(settings))
        return
    figures = run.evaluate(settings, overwrite=overwrite)
    if as_json:
        print_json(figures)
    else:
        note(
            f"eval: {len(settings.policies)} policies on {figures['prompts']} prompts, see {settings.run}/report.html"
        )


def read_labels(folder: Path, *, as_json: bool) -> None:
    from alignment.console import note, print_json
    from alignment.evaluation import run

    figures = run.read_labels(folder)
    if as_json:
        print_json(figures)
    else:
        note(f"eval: the win rates are in {folder}/report.html")


def only_run(arguments: list[str]) -> Path:
    from alignment.errors import ConfigError

    if len(arguments) != 1:
        raise ConfigError("--labels takes one run folder: align eval --labels runs/eval")
    return Path(arguments[0])
