"""When a run stops: one line says where, why and how to go on, and the iterations that were done are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from alignment.checkpoints import saved_steps
from alignment.console import note
from alignment.errors import AlignmentError
from alignment.runs import RunFolder
from reward.errors import RewardError
from rollout.errors import RolloutError

if TYPE_CHECKING:
    from alignment.ppo.trainer import PPOTrainer


@contextmanager
def one_line(trainer: PPOTrainer, run: RunFolder) -> Iterator[None]:
    """Failures that a user can mend become an AlignmentError that says how the run continues; Ctrl-C is passed on."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"PPO: interrupted after iteration {trainer.iteration}; {how_to_continue(run)}")
        raise
    except (AlignmentError, RewardError, RolloutError, OSError, torch.OutOfMemoryError) as error:
        raise AlignmentError(
            f"after iteration {trainer.iteration}: {reason(error)}; {how_to_continue(run, 'mend the cause, then ')}"
        ) from error


def reason(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory: lower microbatch"
    return str(getattr(error, "strerror", None) or error)


def how_to_continue(run: RunFolder, first: str = "", options: str = "") -> str:
    """`first` what must be done before, `options` what --resume needs beside the config."""
    steps = saved_steps(run.checkpoints)
    if not steps:
        return f"there is no checkpoint yet: {first}--resume{options} starts again"
    return f"{first}--resume{options} goes on after iteration {steps[-1]}"
