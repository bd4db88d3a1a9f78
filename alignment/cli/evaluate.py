"""`align eval`."""

from __future__ import annotations

from alignment.cli import options


def evaluate(
    overrides: options.Overrides = None,
    config: options.Config = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Compare policies on held-out prompts: a task's own check, reward, KL to a reference, win rates.

    Example: [bold]align eval --config configs/eval.yaml policies.dpo=runs/dpo samples=4[/bold]
    """
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
