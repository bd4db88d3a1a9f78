"""From logits to tokens: the distribution that is sampled, and the draw itself. Pure functions of tensors.

Letters: b = rows, v = vocabulary.
"""

from __future__ import annotations

import torch

from rollout.types import Sampling


def sampling_logprobs(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Log-probabilities of the distribution that is sampled: [b, v] logits -> [b, v] in float32.

    Temperature first, then top-k, then top-p, then renormalised. Temperature 0 (greedy) has no
    distribution of its own: its log-probabilities are those of the policy itself, at temperature 1.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        return logits.log_softmax(-1)
    logits = logits / sampling.temperature
    if sampling.top_k:
        kept = logits.topk(min(sampling.top_k, logits.shape[-1])).values
        logits = logits.masked_fill(logits < kept[:, -1:], -torch.inf)
    if sampling.top_p < 1:
        logits = keep_nucleus(logits, sampling.top_p)
    return logits.log_softmax(-1)


def keep_nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """-inf outside the nucleus, the smallest set that holds `top_p` of the mass (Holtzman et al. 2020)."""
    ordered, ids = logits.sort(descending=True)
    probabilities = ordered.softmax(-1)
    outside = probabilities.cumsum(-1) - probabilities >= top_p
    return logits.masked_fill(torch.empty_like(outside).scatter_(-1, ids, outside), -torch.inf)


def draw(logprobs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The tokens at quantiles `uniforms` ([b], float64, in [0, 1)) of the distributions [b, v] -> [b].

    Inverse-CDF sampling: a row's token depends on its own distribution and its own number only, so
    neither the batch it sits in nor the rows dropped beside it can change it. In float64, because
    the rounding of a float32 sum over a large vocabulary would lose its tail.
    """
    cumulative = logprobs.double().exp().cumsum(-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_(max=logprobs.shape[-1] - 1)
