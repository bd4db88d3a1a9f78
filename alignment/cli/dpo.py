"""`align dpo`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from alignment.cli import options


def dpo(
    overrides: options.Overrides = None,
    config: options.Config = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Answer, label and train so often, by the section `online`, in place of given data."
        ),
    ] = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Tune a policy on preference pairs with DPO or a relative of it (IPO, SimPO, ORPO, KTO ...), hard labels or soft.

    Example: [bold]align dpo --config configs/dpo.yaml data=snapshots/3f2a loss=ipo beta=0.05[/bold]

    Example: [bold]align dpo --config configs/dpo_rounds.yaml --rounds 3[/bold]
    """
    from alignment.config import load_config, to_yaml
    from alignment.console import print_json, print_plan
    from alignment.dpo import DPOConfig, plan, train_dpo
    from alignment.dpo.rounds import plan_rounds, train_in_rounds

    more = [] if rounds is None else [f"rounds={rounds}"]
    settings = load_config(DPOConfig, config, [*(overrides or []), *more])
    if dry_run:
        return print_plan(to_yaml(settings), (plan_rounds if settings.rounds else plan)(settings))
    train = train_in_rounds if settings.rounds else train_dpo
    figures = train(settings, overwrite=overwrite, resume=resume)
    if as_json:
        return print_json(figures)
    tell(figures, settings.run)


def tell(figures: dict[str, Any], run: str) -> None:
    from alignment.console import note

    for number, one in enumerate(figures.get("rounds", []), 1):
        score = "" if one["mean_score"] is None else f"; its answers scored {one['mean_score']:.3f} before it"
        note(f"dpo: round {number}: {one['train_pairs']} pairs{score}")
    if figures.get("accuracy") is not None:
        held_out = f"{figures['pairs']} pairs" if "pairs" in figures else f"{figures['answers']} answers"
        note("dpo: held-out accuracy {accuracy:.3f}, margin {margin:.3f}, ".format(**figures) + held_out)
    note(f"dpo: {figures['steps']} steps; the policy is in {run}/model")
