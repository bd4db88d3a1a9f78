"""`align plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from alignment.cli import options


def plan(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model to tune: a hub id, a folder or a run.")
    ],
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            "--gpu-memory", min=1, metavar="GIB", help="Memory of the GPU; default: what this machine has."
        ),
    ] = None,
    examples: Annotated[int, typer.Option("--examples", min=0, help="Answers to learn from by SFT.")] = 0,
    pairs: Annotated[int, typer.Option("--pairs", min=0, help="Preference pairs to learn from.")] = 0,
    tokens: Annotated[int, typer.Option("--tokens", min=16, help="Of the longest example to keep.")] = 1024,
    purpose: Annotated[
        str, typer.Option("--for", metavar="WHAT", help="prototype, production or private.")
    ] = "production",
    as_json: options.Json = False,
) -> None:
    """Recommend a tuning method, sizes that fit, and the order of stages, with the memory they take and the reasons.

    Example: [bold]align plan Qwen/Qwen3-8B --gpu-memory 24 --examples 5000 --pairs 2000[/bold]
    """
    from typing import get_args

    from alignment.console import output, print_json
    from alignment.errors import ConfigError
    from alignment.footprint import GIB
    from alignment.tuning.advice import Machine, Purpose, Work, config_of, recommend

    if purpose not in get_args(Purpose):
        raise ConfigError(f"--for {purpose}: give one of {', '.join(get_args(Purpose))}")
    machine = Machine(round(gpu_memory * GIB), gpu=True) if gpu_memory else Machine.here()
    found = recommend(Work(config_of(model), machine, examples, pairs, tokens, purpose))  # type: ignore[arg-type]
    if as_json:
        print_json(found.as_figures())
        return
    for reason in found.reasons:
        output.print(f"- {reason}", markup=False, soft_wrap=True)
    start = model
    for stage in found.stages:
        name = stage.command.split()[0]
        key = {"sft": "model", "reward": "base", "dpo": "policy"}[name]
        words = [
            f"align {stage.command} run=runs/{name} {key}.path={start} data={name.upper()}_DATA",
            f"tuning.method={stage.method} max_length={stage.max_length} microbatch={stage.microbatch}",
            f"batch_size={stage.batch_size} epochs={stage.epochs} learning_rate={stage.learning_rate:g}",
        ]
        output.print(
            f"\n# {stage.memory_gib:.1f} GiB\n" + " \\\n    ".join(words), markup=False, soft_wrap=True
        )
        start = start if name == "reward" else f"runs/{name}"
