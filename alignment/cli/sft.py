"""`align sft`."""

from __future__ import annotations

from alignment.cli import options


def sft(
    overrides: options.Overrides = None,
    config: options.Config = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Fine-tune a model on answers, or train a small one from nothing.

    Example: [bold]align sft --config configs/sft.yaml data=answers.jsonl epochs=2[/bold]
    """
    from alignment.config import load_config, to_yaml
    from alignment.console import note, print_json, print_plan
    from alignment.sft import SFTConfig, plan, train_sft

    settings = load_config(SFTConfig, config, overrides or [])
    if dry_run:
        print_plan(to_yaml(settings), plan(settings))
        return
    figures = train_sft(settings, overwrite=overwrite, resume=resume)
    if as_json:
        print_json(figures)
    else:
        note(
            "sft: {steps} steps, held-out loss {held_out_loss:.3f}, {tokens_per_second:.0f} tokens/s".format(
                **figures
            )
        )
        note(f"sft: the model is in {settings.run}/model")
