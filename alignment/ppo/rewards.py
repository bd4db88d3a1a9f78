"""From one score an answer to one reward a token."""

from __future__ import annotations

import torch
from torch import Tensor


def shape_scores(
    scores: Tensor,
    truncated: Tensor,
    *,
    clip: float,
    truncation_penalty: float,
    truncation_score: float | None = None,
) -> Tensor:
    """Scores (b,) clipped to +-clip, then answers that did not finish (truncated, (b,) bool) penalised.

    The penalty is subtracted; if `truncation_score` is given it takes the score's place instead.
    """
    scores = scores.clamp(-clip, clip)
    if truncation_score is not None:
        return torch.where(truncated, torch.full_like(scores, truncation_score), scores)
    return scores - truncation_penalty * truncated


def token_rewards(scores: Tensor, kl: Tensor, kl_coef: float, mask: Tensor) -> Tensor:
    """Rewards (b, r): -kl_coef * kl on every response token, plus the score (b,) on the last one.

    kl, mask: (b, r). A row without a response token is an error: every completion has at least one.
    """
    rewards = torch.where(mask, -kl_coef * kl, 0.0)
    last = mask.sum(dim=1) - 1
    if bool((last < 0).any()):
        raise ValueError("a row without response tokens has no place for its score")
    rewards[torch.arange(len(scores)), last] += scores
    return rewards
