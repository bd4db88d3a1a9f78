"""`align dpo`."""

from __future__ import annotations

from alignment.cli import options


def dpo(
    overrides: options.Overrides = None,
    config: options.Config = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Tune a policy on preference pairs with DPO or a relative of it (IPO, SimPO, ORPO, KTO ...), hard labels or soft.

    Example: [bold]align dpo --config configs/dpo.yaml data=snapshots/3f2a loss=ipo beta=0.05[/bold]
    """
    from alignment.config import load_config, to_yaml
    from alignment.console import note, print_json, print_plan
    from alignment.dpo import DPOConfig, plan, train_dpo

    settings = load_config(DPOConfig, config, overrides or [])
    if dry_run:
        return print_plan(to_yaml(settings), plan(settings))
    figures = train_dpo(settings, overwrite=overwrite, resume=resume)
    if as_json:
        return print_json(figures)
    if figures.get("accuracy") is not None:
        held_out = f"{figures['pairs']} pairs" if "pairs" in figures else f"{figures['answers']} answers"
        note("dpo: held-out accuracy {accuracy:.3f}, margin {margin:.3f}, ".format(**figures) + held_out)
    note(f"dpo: {figures['steps']} steps; the policy is in {settings.run}/model")
