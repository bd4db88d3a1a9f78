"""Generalised advantage estimation (Schulman et al. 2015, arXiv 1506.02438)."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, both (b, r), 0 outside the mask. rewards, values, mask: (b, r).

    delta_j = reward_j + gamma * V_{j+1} - V_j;  A_j = delta_j + gamma * lam * A_{j+1};  return_j = A_j + V_j.
    The value past the last token is 0. A masked gap inside a row is passed over: V_{j+1} and A_{j+1} are those of
    the next token that counts.
    """
    advantage = next_value = torch.zeros(len(rewards), dtype=values.dtype, device=values.device)
    columns = []
    for j in reversed(range(rewards.shape[1])):
        here = mask[:, j]
        delta = rewards[:, j] + gamma * next_value - values[:, j]
        advantage = torch.where(here, delta + gamma * lam * advantage, advantage)
        next_value = torch.where(here, values[:, j], next_value)
        columns.append(torch.where(here, advantage, 0.0))
    advantages = torch.stack(columns[::-1], dim=1)
    return advantages, torch.where(mask, advantages + values, 0.0)
