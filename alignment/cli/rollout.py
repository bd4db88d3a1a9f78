"""`align rollout`."""

from __future__ import annotations

from alignment.cli import options


def rollout(
    overrides: options.Overrides = None,
    config: options.Config = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Let a policy answer prompts; keep the answers as comparisons to label, preference pairs or an SFT set.

    The same command again goes on where it was interrupted.

    Example: [bold]align rollout --config configs/rollout.yaml completions=4 limit=500[/bold]

    Best of 8 by a reward model: [bold]align rollout --config configs/rollout.yaml run=runs/best completions=8
    reward=runs/reward keep=best[/bold], then [bold]align sft data=runs/best/sft.jsonl ...[/bold]
    """
    from alignment.config import load_config, to_yaml
    from alignment.console import note, print_json, print_plan
    from alignment.rollout_record import in_words
    from alignment.rollouts import RolloutConfig, collect_rollouts, plan

    settings = load_config(RolloutConfig, config, overrides or [])
    if dry_run:
        print_plan(to_yaml(settings), plan(settings))
        return
    figures = collect_rollouts(settings, overwrite=overwrite)
    if as_json:
        print_json(figures)
    else:
        note(f"rollout: {in_words(settings, figures)}")
