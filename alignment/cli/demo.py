"""`align demo`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from alignment.cli import options


class TaskName(StrEnum):
    notes = "notes"
    e2e = "e2e"


def demo(
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Decides every random draw.")] = 0,
    task: Annotated[
        TaskName, typer.Option(help="notes: made up on the spot; e2e: the E2E restaurant data, see --data.")
    ] = TaskName.notes,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For --task e2e: JSON lines with `mr` and `ref`.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the demo in the folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the demo in the folder.")] = False,
    as_json: options.Json = False,
) -> None:
    """From nothing to an aligned policy in a few minutes: base, labels, reward model, DPO, PPO, report.

    Needs no network and no GPU. Every step is a command that it prints.

    Example: [bold]align demo[/bold]
    """
    from alignment.console import print_json
    from alignment.demo.pipeline import run_demo
    from alignment.demo.report import print_demo

    figures = run_demo(folder, task=task.value, data=data, seed=seed, overwrite=overwrite, resume=resume)
    if as_json:
        print_json(figures)
    else:
        print_demo(folder, figures)
