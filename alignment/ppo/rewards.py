"""From one score an answer to one reward a token."""

from __future__ import annotations

import torch
from torch import Tensor


def shape_scores(
    scores: Tensor,
    truncated: Tensor,
    lengths: Tensor,
    *,
    clip: float,
    length_penalty: float = 0.0,
    truncation_penalty: float,
    truncation_score: float | None = None,
    limit: int = 0,
    buffer: int = 0,
) -> Tensor:
    """Scores (b,) clipped to +-clip, less what their length costs. truncated: (b,) bool; lengths: (b,) tokens.

    Each token costs `length_penalty`. An answer that did not finish costs `truncation_penalty`, or is given
    `truncation_score` in place of all; one that ends in the last `buffer` tokens before `limit` costs its share of the
    penalty (the soft overlong punishment of Yu et al. 2025, arXiv 2503.14476).
    """
    scores = scores.clamp(-clip, clip) - length_penalty * lengths
    overlong = truncated.to(scores.dtype)
    if buffer:
        overlong = overlong.maximum(((lengths - (limit - buffer)) / buffer).clamp(0, 1))
    scores = scores - truncation_penalty * overlong
    if truncation_score is not None:
        return torch.where(truncated, torch.full_like(scores, truncation_score), scores)
    return scores


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
