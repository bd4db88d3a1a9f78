"""`align ppo`."""

from __future__ import annotations

from alignment.cli import options


def ppo(
    overrides: options.Overrides = None,
    config: options.Config = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Train a policy with PPO on the scores of a reward model, a rule or a service.

    The last iterations stand in a table under the bar; the key [bold]track[/bold] draws them in TensorBoard or W&B.

    With a [bold]probe[/bold] section the best policy by a gold score is kept in RUN/best.

    Example: [bold]align ppo --config configs/ppo.yaml learning_rate=2e-5 kl.coef=0.1[/bold]

    Answers sampled by vLLM: [bold]align ppo --config configs/ppo.yaml engine=vllm[/bold]
    """
    from alignment.config import load_config, to_yaml
    from alignment.console import print_json, print_plan
    from alignment.ppo.config import PPOConfig

    settings = load_config(PPOConfig, config, overrides or [])
    if dry_run:
        from alignment.ppo.plan import plan

        return print_plan(to_yaml(settings), plan(settings))
    from alignment.ppo.processes import is_main
    from alignment.ppo.run import train_ppo

    figures = train_ppo(settings, overwrite=overwrite, resume=resume)
    if as_json and is_main():
        print_json(figures)
