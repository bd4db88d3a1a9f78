"""Sums and moments over the tokens that count."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` where `mask` is true; 0 where nothing is. x, mask: any equal shape -> scalar."""
    return (x * mask).sum() / mask.sum().clamp_min(1)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Biased variance of `x` where `mask` is true. x, mask: any equal shape -> scalar."""
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def whiten(x: Tensor, mask: Tensor, *, keep_mean: bool = False, eps: float = 1e-8) -> Tensor:
    """`x` shifted and scaled to mean 0 (or its own) and variance 1 over the mask, 0 elsewhere. Shape kept.

    Called once on the whole rollout batch, never on a microbatch.
    """
    mean = masked_mean(x, mask)
    whitened = (x - mean) * torch.rsqrt(masked_var(x, mask) + eps)
    return torch.where(mask, whitened + mean if keep_mean else whitened, 0.0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns): 1 is a perfect critic, below 0 one that is worse than a constant."""
    return 1 - masked_var(returns - values, mask) / masked_var(returns, mask).clamp_min(1e-12)
