"""What one iteration learns from: the answers, and what the models and the reward said of each token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.ppo.kl import kl_estimate
from alignment.ppo.sequences import Sequences, join
from rollout.types import Completion


@dataclass(frozen=True)
class Rollouts:
    """Answers as the engine gave them.

    sequences: b rows; engine_logprobs: (b, r); truncated: (b,) bool; engine_values: (b, r), where it has the critic's.
    """

    sequences: Sequences
    texts: list[str]
    engine_logprobs: Tensor
    truncated: Tensor
    engine_values: Tensor | None = None

    @classmethod
    def from_completions(
        cls, prompts: list[list[int]], completions: list[Completion], texts: list[str], pad_id: int
    ) -> Rollouts:
        """Truncation is what the engine says ("length"): a chat model has several stop tokens, so ids cannot tell."""
        sequences = join(prompts, [c.token_ids for c in completions], pad_id)
        flat = torch.tensor([p for c in completions for p in c.logprobs])
        values = torch.tensor([v for c in completions for v in c.values])
        truncated = torch.tensor([c.finish_reason == "length" for c in completions])
        return cls(
            sequences,
            texts,
            sequences.to_rows(flat),
            truncated,
            sequences.to_rows(values) if len(values) else None,
        )

    def figures(self, logprobs: Tensor, reference: Tensor) -> dict[str, float]:
        """What is told of any answers: their KL, from (b, r) log-probabilities of policy and reference, in nats an
        answer by two estimators, their length, and the share that ran into the limit."""
        mask = self.sequences.response_mask
        return {
            "kl": float((kl_estimate(logprobs, reference, "k1") * mask).sum(1).mean()),
            "kl_k3": float((kl_estimate(logprobs, reference, "k3") * mask).sum(1).mean()),
            "response_length": float(self.sequences.response_lengths.float().mean()),
            "truncated": float(self.truncated.float().mean()),
        }


@dataclass(frozen=True)
class Experience:
    """The fixed side of the update. Every tensor but `sequences` is (b, r), 0 where a row has ended."""

    sequences: Sequences
    old_logprobs: Tensor
    reference_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor

    def select(self, rows: Tensor) -> Experience:
        """Some of the rows, cut to the longest of them."""
        sequences = self.sequences.select(rows)
        width = int(sequences.response_lengths.max())
        return Experience(sequences, *(x[rows, :width] for x in self._tensors()))

    def to(self, device: torch.device) -> Experience:
        return Experience(self.sequences.to(device), *(x.to(device) for x in self._tensors()))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.old_logprobs, self.reference_logprobs, self.old_values, self.advantages, self.returns


def microbatches(sequences: Sequences, rows: Tensor, size: int) -> Iterator[Tensor]:
    """`rows` in groups of at most `size`, alike in length, so that little of a forward is padding."""
    by_length = rows[torch.argsort(sequences.lengths[rows], stable=True)]
    yield from by_length.split(size)
