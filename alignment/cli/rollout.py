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
    """Let a policy answer prompts and put the answers into the store, as comparisons to label.

    The same command again goes on where it was interrupted.

    Example: [bold]align rollout --config configs/rollout.yaml completions=4 limit=500[/bold]
    """
    from alignment.config import load_config, to_yaml
    from alignment.console import note, print_json, print_plan
    from alignment.rollouts import RolloutConfig, collect_rollouts, plan

    settings = load_config(RolloutConfig, config, overrides or [])
    if dry_run:
        print_plan(to_yaml(settings), plan(settings))
        return
    figures = collect_rollouts(settings, overwrite=overwrite)
    if as_json:
        print_json(figures)
    else:
        note(
            "rollout: {prompts} prompts, {comparisons} comparisons ({identical} identical, {empty} empty, "
            "{duplicates} there already), {truncated} of {answers} answers truncated, "
            "{tokens_per_second:.0f} tokens/s".format(**figures)
        )
