"""How much better than expected each token was: with a critic, or from answers to the same prompt.

- gae: generalised advantage estimation (Schulman et al. 2015, arXiv 1506.02438); the only one with a critic
- rloo: against the mean of the prompt's other answers (Ahmadian et al. 2024, arXiv 2402.14740)
- grpo: against the mean of the prompt's answers, over their spread (Shao et al. 2024, arXiv 2402.03300)
- reinforce++: rewards to go, normalised over the whole batch (Hu 2025, arXiv 2501.03262)
"""

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


def leave_one_out(rewards: Tensor, mask: Tensor, group: int) -> Tensor:
    """RLOO. rewards, mask: (b, r), the `group` answers to a prompt in a line -> advantages (b, r), 0 outside.

    A = R - mean of the R of the prompt's other answers, the same for every token; R is the sum of a row's rewards.
    """
    totals = (rewards * mask).sum(1).view(-1, group)
    others = (totals.sum(1, keepdim=True) - totals) / (group - 1)
    return (totals - others).view(-1, 1) * mask


def group_relative(rewards: Tensor, mask: Tensor, group: int, eps: float = 1e-4) -> Tensor:
    """GRPO. As `leave_one_out`, but A = (R - mean) / (std + eps) over all of the prompt's answers."""
    totals = (rewards * mask).sum(1).view(-1, group)
    spread = totals.std(1, keepdim=True, correction=0)
    return ((totals - totals.mean(1, keepdim=True)) / (spread + eps)).view(-1, 1) * mask


def rewards_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """REINFORCE++ before its normalisation: the discounted sum of a row's rewards from each token on (b, r)."""
    zeros = torch.zeros_like(rewards)
    return generalized_advantages(rewards, zeros, mask, gamma=gamma, lam=1.0)[0]
