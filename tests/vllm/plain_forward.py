"""What vLLM's log-probabilities are held against: a plain Transformers forward."""

from __future__ import annotations

from typing import Any

import torch

from rollout.types import Completion


@torch.no_grad()
def gap(
    model: Any, prompts: list[list[int]], completions: list[Completion], temperature: float = 1.0
) -> float:
    """The largest difference, in nats, from plain forwards over prompt and answer."""
    largest = 0.0
    for prompt, c in zip(prompts, completions, strict=True):
        tokens = torch.tensor(c.token_ids)
        logits = model(torch.tensor([[*prompt, *c.token_ids]])).logits[0, len(prompt) - 1 : -1].float()
        expected = (logits / temperature).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        largest = max(largest, float((torch.tensor(c.logprobs) - expected).abs().max()))
    return largest
