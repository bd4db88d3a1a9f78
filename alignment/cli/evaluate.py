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
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was cut off: what it sampled is kept.")
    ] = False,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels",
            help="Read the labels of a run's comparisons; the run folder takes the place of KEY=VALUE.",
        ),
    ] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="One report of several evaluations; their folders take the place of KEY=VALUE."
        ),
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page that --compare writes.")] = Path(
        "comparison.html"
    ),
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Compare policies on held-out prompts: checks, task metrics, reward, KL, perplexity, win rates.

    Example: [bold]align eval --config configs/eval.yaml policies.dpo=runs/dpo samples=4[/bold]

    With comparisons.store a judge or people compare the answers: [bold]align eval --labels runs/eval[/bold]

    Any number of evaluations on one page: [bold]align eval --compare runs/a runs/b --out comparison.html[/bold]
    """
    if labels or compare:
        return of_runs(
            [Path(one) for one in overrides or []],
            labels=labels,
            compare=out if compare else None,
            as_json=as_json,
        )
    from alignment.config import load_config, to_yaml
    from alignment.console import note, print_json, print_plan
    from alignment.evaluation.config import EvalConfig

    settings = load_config(EvalConfig, config, overrides or [])
    from alignment.evaluation import run

    if dry_run:
        print_plan(to_yaml(settings), run.plan(settings))
        return
    figures = run.evaluate(settings, overwrite=overwrite, resume=resume)
    if as_json:
        print_json(figures)
    else:
        note(
            f"eval: {len(settings.policies)} policies on {figures['prompts']} prompts, see {settings.run}/report.html"
        )


def of_runs(folders: list[Path], *, labels: bool, compare: Path | None, as_json: bool) -> None:
    """What needs no model: evaluations that are there already."""
    from alignment.console import note, print_json
    from alignment.errors import ConfigError

    if labels and (compare or len(folders) != 1):
        raise ConfigError("--labels takes one run folder: align eval --labels runs/eval")
    if compare and len(folders) < 2:
        raise ConfigError("--compare takes two run folders or more: align eval --compare runs/a runs/b")
    if compare:
        from alignment.evaluation.compare import compare as compare_runs

        figures, page = compare_runs(folders, compare), compare
    else:
        from alignment.evaluation.labels import read_labels

        figures, page = read_labels(folders[0]), folders[0] / "report.html"
    if as_json:
        print_json(figures)
    else:
        note(f"eval: see {page}")
