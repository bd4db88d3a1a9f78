"""A policy is brought to its engine, and what arrived is held against what was sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rollout.delivery import PROBE, TOLERANCE, Delivery, check_delivery
from rollout.types import RolloutEngine
from rollout.weights import has_adapters, is_four_bit


def deliver(
    engine: RolloutEngine, policy: Any, probe: Sequence[int], last: Delivery | None = None
) -> Delivery | None:
    """Sync, then compare the first tokens that the engine says to the prompt `probe` with what the policy says of them.

    Returns the proof, for the next time to be held against; None where the engine samples from the policy itself.
    Raises RolloutError if the engine has something else. The engine's generator is left as it was.
    """
    version = engine.sync(policy)
    if not engine.copies:
        return None
    before = engine.state_dict()
    (said,) = engine.generate([probe], PROBE)
    engine.load_state_dict(before)
    expected, reference = token_logprobs(policy, probe, said.token_ids), None
    if has_adapters(policy):
        with policy.disable_adapter():
            reference = token_logprobs(policy, probe, said.token_ids)
    delivery = Delivery(said, expected, reference)
    check_delivery(delivery, version, max(tolerance(policy), TOLERANCE[engine.dtype]), last)
    return delivery


def tolerance(policy: Any) -> float:
    """Nats by which an exact engine may differ from `policy` in a token's log-probability."""
    computes = torch.bfloat16 if is_four_bit(policy) else policy.dtype
    return TOLERANCE[str(computes).removeprefix("torch.")]


@torch.no_grad()
def token_logprobs(policy: Any, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """The log-probability of each token of `answer` to `prompt`, in nats, by one plain forward."""
    ids = torch.tensor([[*prompt, *answer]], device=policy.device)
    logits = policy(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
    chosen = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])
    return [float(x) for x in chosen[:, 0]]
