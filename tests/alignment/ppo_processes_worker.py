"""What each of several processes does in test_ppo_processes.py, started by torchrun."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from alignment.checkpoints import load_checkpoint, save_checkpoint
from alignment.errors import AlignmentError
from alignment.ppo.processes import (
    all_reduce_figures,
    all_reduce_gradients,
    all_reduce_max,
    fill_in,
    from_main,
    in_shares,
    is_main,
    share,
    together,
)
from reward.errors import RewardError
from tests.alignment.test_ppo_trainer import make_trainer


def run(case: dict) -> dict:
    """Iterations of a trainer, from a checkpoint where the case has one, and with another written after the first."""
    trainer = make_trainer(case["model"], **case["changes"])
    trainer.sampler.engine.stop_token_ids = tuple(range(1, 40))  # answers of many lengths
    if case.get("load"):
        trainer.load_state_dict(load_checkpoint(Path(case["load"])))
    parameters = list(trainer.models.parameters())
    split = [p for p in parameters if isinstance(p, DTensor)]
    rows = []
    while trainer.iteration < case["iterations"]:
        rows.append(trainer.step())
        if trainer.iteration == 1:
            state = trainer.state_dict()
            if is_main():
                save_checkpoint(Path(case["save"]), trainer.iteration, state, keep=1)
    return {
        "rows": rows,
        "split": sum(p.numel() for p in split),
        "held": sum(p.to_local().numel() for p in split),
        "whole": sum(p.numel() for p in parameters) - sum(p.numel() for p in split),
        "placements": sorted({str(p.placements) for p in split}),
    }


class Unsendable(Exception):
    """Pickles, but cannot be made again from its message alone."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}, {why}")


def fail(error: Exception) -> list:
    raise error


def talk(model: str) -> dict:
    """A round of everything that processes say to each other."""
    rank = dist.get_rank()
    uneven = torch.tensor([5, 3, 9, 1, 7])
    filled = torch.zeros(5, 2)
    mine = share(uneven)
    filled[mine] = mine[:, None] + 1.0
    fill_in(mine, filled)
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    parameters[0].grad = torch.tensor([1.0, rank])
    parameters[1].grad = torch.ones(2) if is_main() else None
    all_reduce_gradients(parameters)
    failures = []
    for error in (RewardError("no score"), Unsendable("a lock", "two words")):
        with pytest.raises(Exception, match=r"no score|a lock") as failure:
            in_shares(lambda rows, error=error: rows if is_main() else fail(error), uneven)
        failures.append(f"{failure.type.__name__}: {failure.value}")
    with pytest.raises(AlignmentError) as refusal:
        make_trainer(model, episodes=6, minibatches=2)
    return {
        "even": share(torch.tensor([5, 3, 9, 1, 7, 2])).tolist(),
        "uneven": mine.tolist(),
        "alone": share(torch.tensor([4])).tolist(),
        "in_shares": in_shares(lambda rows: [10 * row for row in rows], uneven),
        "filled": filled.tolist(),
        "gradients": [p.grad.tolist() for p in parameters],
        "figures": all_reduce_figures({"a": 1.0 + rank, "b": 0.5}),
        "largest": all_reduce_max(float(rank)),
        "from_main": from_main({"rank": rank}),
        "failures": failures,
        "refusal": str(refusal.value),
    }


def fails_on_one(conversations: list) -> list[float]:
    """A reward that breaks in the second process."""
    if not is_main():
        raise RuntimeError("no reward today")
    return [0.0] * len(conversations)


def dies_on_one(conversations: list) -> list[float]:
    """A reward in which the second process is killed."""
    if not is_main():
        os.kill(os.getpid(), signal.SIGKILL)
    return [0.0] * len(conversations)


def main(folder: Path) -> None:
    cases = json.loads((folder / "cases.json").read_text())
    with together():
        found = {
            "world_size": dist.get_world_size(),
            "backend": dist.get_backend_config(),
            "talk": talk(next(iter(cases.values()))["model"]),
            "results": {name: run(case) for name, case in cases.items()},
        }
        (folder / f"process-{dist.get_rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
