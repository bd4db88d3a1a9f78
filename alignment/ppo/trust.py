"""How far an engine's word is taken, by what a forward of the trainer's own says of the same tokens."""

from __future__ import annotations

from typing import Any

from alignment.console import note
from alignment.ppo.config import PPOConfig

EXACT = 1e-4  # nats: an engine's log-probabilities are the trainer's own but for rounding in float32
NOTICEABLE = 0.02  # nats a token: above what bfloat16 rounds away, below what moves a loss
CAP = 2.0  # of importance weights, where the run has to choose


class EngineTrust:
    """Whether the engine's log-probabilities, and values if it has them, stand for a forward; and, where they are those
    of another policy, at most how much a token weighs for it (`cap`, None for not at all)."""

    def __init__(self, config: PPOConfig) -> None:
        self.exact = config.old_logprobs == "engine"  # unless it proves otherwise
        self.cap = config.importance_cap
        self.measured = (
            config.critic.warmup + 2
        )  # iterations: at first, and once the policy given to it has moved
        if config.overlap and self.cap is None:
            self.cap = CAP
            note(
                f"PPO: answers will be one step old: tokens are weighted by old / engine probability, at most {CAP:g}"
            )

    def suffices(self, iteration: int) -> bool:
        """Whether nothing need be computed again in this iteration."""
        return self.exact and iteration >= self.measured

    def hear(self, mean: float, largest: float) -> None:
        """The engine was off by so many nats a token, or by so much in a value.

        If by more than rounding, it is trusted no more; if as by another policy, tokens are weighted from now on.
        """
        if self.exact and largest > EXACT:
            self.exact = False
            note(f"PPO: what the engine says is off by up to {largest:.1g}: old_logprobs=recompute instead")
        if self.cap is None and mean > NOTICEABLE:
            self.cap = CAP
            note(
                f"PPO: the engine's log-probabilities are off by {mean:.2g} nats a token: from now on tokens are "
                f"weighted by old / engine probability, at most {CAP:g} (importance_cap)"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"trusts_engine": self.exact, "importance_cap": self.cap}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.exact = state["trusts_engine"]
        self.cap = state.get("importance_cap", self.cap)
