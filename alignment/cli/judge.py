"""`align judge`: AI labels through any OpenAI-compatible endpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from alignment.cli import options

app = typer.Typer(help="Label comparisons with an AI judge.", no_args_is_help=True)


@app.callback()
def judge() -> None:
    """Label comparisons with an AI judge over any OpenAI-compatible endpoint, hosted or a vLLM server."""


@app.command()
def run(
    overrides: options.Overrides = None,
    config: options.Config = None,
    store: options.Store = options.DEFAULT_STORE,
    budget: Annotated[
        float | None,
        typer.Option(min=0, help="US dollars that this judge may cost in this store, all runs together."),
    ] = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Label every waiting comparison, each asked in both orders.

    A run that was stopped goes on where it was: what has been answered is not asked again.

    Example: [bold]align judge run --config configs/judge.yaml --store align.db --budget 5[/bold]
    """
    from alignment.config import load_config, to_yaml
    from alignment.console import note, print_json, progress_bar
    from labeling.judge.config import JudgeConfig
    from labeling.judge.job import run_judge
    from labeling.judge.plan import plan_judge
    from labeling.store import Store

    more = [] if budget is None else [f"budget={budget}"]
    resolved = load_config(JudgeConfig, config, [*(overrides or []), *more])
    opened = Store.open(store, create=False)
    plan = plan_judge(opened, resolved)
    if dry_run:
        note(to_yaml(resolved) + plan.as_text())
        if json:
            print_json(plan.as_dict())
        return
    with progress_bar("judging", plan.comparisons + plan.not_pairs + plan.own) as advance:
        report = run_judge(opened, resolved, progress=advance)
    note(report.as_text())
    if json:
        print_json(report.as_dict())
