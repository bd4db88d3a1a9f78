"""PPO's losses for each token (Schulman et al. 2017, arXiv 1707.06347); the caller sums them and divides.

Nothing here averages: the trainer divides by the token count of the whole optimizer step, so that gradients do
not depend on how the step was cut into microbatches or ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignment.ppo.kl import log_ratio


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip: float, dual_clip: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Clipped surrogate of each token: (loss, ratio, clipped), all of the shape of `logprobs`.

    loss = max(-A * ratio, -A * clip(ratio, 1 - clip, 1 + clip)). With `dual_clip` c > 1 the loss of a token with
    A < 0 is at most -c * A (Ye et al. 2020, arXiv 1912.09729), so that one huge ratio cannot rule the step.
    `clipped` is 1.0 where the clip took the gradient away.
    """
    ratio = torch.exp(log_ratio(logprobs, old_logprobs))
    unclipped = -advantages * ratio
    bounded = -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = torch.maximum(unclipped, bounded)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
    return loss, ratio, (bounded > unclipped).float()


def importance_weights(old_logprobs: Tensor, engine_logprobs: Tensor, *, cap: float) -> Tensor:
    """min(p_old / p_engine, cap) of each token: what an engine of other numerics draws too often counts less.

    Truncated importance sampling (Ionides 2008): the cap bounds the variance for a little bias. The policy loss is
    proportional to the advantage, so that a weight on one is a weight on the other. Shape kept.
    """
    return torch.exp(log_ratio(old_logprobs, engine_logprobs)).clamp(max=cap)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float) -> tuple[Tensor, Tensor]:
    """Clipped squared error of each token: (loss, clipped). Shape kept.

    loss = 1/2 max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2).
    """
    bounded = values.clamp(old_values - clip, old_values + clip)  # exactly the value itself in between
    unclipped_error, bounded_error = (values - returns) ** 2, (bounded - returns) ** 2
    return torch.maximum(unclipped_error, bounded_error) / 2, (bounded_error > unclipped_error).float()
