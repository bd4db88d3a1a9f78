"""Log-probabilities of given tokens under a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignment.evaluation.statistics import Array

Ids = Sequence[int]


def token_logprobs(
    model: Any, pairs: Sequence[tuple[Ids, Ids]], *, temperature: float, batch_size: int
) -> list[Array]:
    """Of each pair's second token ids after its first, in nats at a sampling temperature, from fp32 logits.

    Raises ValueError if one is empty.
    """
    import torch

    from alignment.ppo.actor_critic import response_logprobs
    from alignment.ppo.sequences import join

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    found: list[Array] = []
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        rows = join([before for before, _ in batch], [after for _, after in batch], pad_id=0)
        with torch.no_grad():
            logprobs, _ = response_logprobs(plain, rows.to(plain.device), temperature)
        found += [
            row[: len(after)].double().cpu().numpy() for (_, after), row in zip(batch, logprobs, strict=True)
        ]
    return found
