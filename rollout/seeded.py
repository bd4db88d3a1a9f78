"""What engines that sample have in common: where their random numbers are, and which policy is there."""

from __future__ import annotations

from typing import Any

import torch

SEEDS = 1 << 31


class Seeded:
    """The state of an engine that exact resume needs. Its weights are not in it: `sync` delivers them again."""

    def __init__(self, seed: int) -> None:
        self.version = 0
        self.generator = torch.Generator().manual_seed(seed)

    def request_seeds(self, count: int) -> list[int]:
        """A seed for each of `count` prompts, where a prompt is sampled with a seed of its own."""
        return list(torch.randint(SEEDS, (count,), generator=self.generator).tolist())

    def state_dict(self) -> dict[str, Any]:
        return {"version": self.version, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.version = state["version"]
        self.generator.set_state(state["generator"])

    def reseed(self, seed: int) -> None:
        """Draw from here on as a new engine with this seed would."""
        self.generator.manual_seed(seed)
