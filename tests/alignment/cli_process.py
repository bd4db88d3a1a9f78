"""`align` in processes of their own that start in a second: forked from one that has imported the libraries."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

HEAVY = [
    "accelerate",
    "peft",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "alignment.cli",
    "alignment.dpo.trainer",
    "alignment.ppo.build",
    "alignment.ppo.run",
    "alignment.ppo.trainer",
    "alignment.rollouts",
    "labeling.judge.job",
    "reward.learned",
]


def fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    return context


def start(context: ForkServerContext, arguments: list[str], log: Path) -> ForkServerProcess:
    process = context.Process(target=command, args=(arguments, str(log)), daemon=True)
    process.start()
    return process


def command(arguments: list[str], log: str) -> None:
    from alignment.cli import run

    with open(log, "w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(run(arguments))
