"""What a run keeps of its trainer: checkpoints to go on from, and policies to use.

All processes take part in both, and none goes on before the main one has written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from alignment.checkpoints import save_checkpoint
from alignment.files import whole_folder
from alignment.ppo.processes import barrier, is_main

if TYPE_CHECKING:
    from alignment.ppo.trainer import PPOTrainer

NOTHING: Mapping[str, str] = MappingProxyType({})


def write_checkpoint(trainer: PPOTrainer, folder: Path) -> None:
    """A checkpoint that any number of processes can go on from. Raises AlignmentError where it cannot be written."""
    state = trainer.state_dict()
    if is_main():
        save_checkpoint(folder, trainer.iteration, state, keep=trainer.config.keep_checkpoints)
    barrier()


def write_policy(trainer: PPOTrainer, path: Path, beside: Mapping[str, str] = NOTHING) -> None:
    """The policy as a model folder with its tokenizer, and the texts `beside` it by file name."""
    weights = trainer.models.policy_weights()
    if is_main():
        with whole_folder(path) as folder:
            trainer.models.save_policy(folder, weights)
            trainer.tokenizer.save_pretrained(folder)
            for name, text in beside.items():
                (folder / name).write_text(text, encoding="utf-8")
    barrier()
