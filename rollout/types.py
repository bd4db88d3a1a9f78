"""What passes through a rollout engine: sampling settings in, completions out. Token ids on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from rollout.errors import RolloutError

FinishReason = Literal["stop", "length"]


class Sampling(BaseModel):
    """How completions are drawn. The defaults sample from the policy's own distribution."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: int = Field(256, ge=1, description="longest answer, in tokens")
    temperature: float = Field(1.0, ge=0.0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="nucleus; PPO needs 1")
    top_k: int = Field(0, ge=0, description="0 is off; PPO needs 0")


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer.

    token_ids: what the policy sampled, the stop token included when it sampled one.
    logprobs: of each of token_ids under the sampling temperature, in nats; same length.
    finish_reason: "stop" (a stop token was sampled) or "length" (it ran into the limit).
    policy_version: of the weights that made it, as returned by `RolloutEngine.sync`.
    values: what a value head said before each of token_ids, where the engine was given one; else empty.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    policy_version: int
    values: tuple[float, ...] = ()


class RolloutEngine(Protocol):
    """Says what the policy says. Prompts are token ids; nothing is decoded and tokenized again."""

    copies: bool  # it samples from a copy of the weights, which `sync` delivers: see `rollout.delivery`
    version: int  # of the policy that it has

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        ...

    @property
    def dtype(self) -> str:
        """What it computes in: float32, bfloat16 or float16."""
        ...

    def generate(
        self, prompt_ids: Sequence[Sequence[int]], sampling: Sampling, rows: Sequence[int] | None = None
    ) -> list[Completion]:
        """One completion for each prompt, in order. Repeat a prompt to sample it several times.

        With `rows` only those prompts are answered, in that order, with the random numbers that they have
        when all are: processes that share the prompts say together what one alone would.
        """
        ...

    def sync(self, policy: Any) -> int:
        """Deliver the policy's current weights; returns the version that later completions carry."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What exact resume needs: random state and version. The weights are not in it: `sync` delivers them again."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def reseed(self, seed: int) -> None:
        """Draw from here on as a new engine with this seed would."""
        ...

    def close(self) -> None:
        """Let go of what it holds beside the policy: memory, processes, files."""
        ...


def require_room(prompt_ids: Sequence[Sequence[int]], context: int) -> None:
    """Raises RolloutError for a prompt that is empty or leaves no room in a context of so many tokens."""
    for index, prompt in enumerate(prompt_ids):
        if not 0 < len(prompt) < context:
            raise RolloutError(
                f"prompt {index} has {len(prompt)} tokens, the model's context {context}: "
                "give it at least one token and leave room for the answer"
            )
