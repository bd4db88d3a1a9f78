"""From logits to tokens: the distribution that is sampled, and the draw itself. Pure functions of tensors.

Letters: b = rows, v = vocabulary.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from rollout.types import Sampling

BLOCK = 256  # tokens of the vocabulary looked at together


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

    Inverse-CDF sampling: a row's token depends on its own distribution and its own number only, so neither the
    batch it sits in nor the rows dropped beside it can change it. First the block of the vocabulary, then the token
    in it. Running sums are in float64, because a float32 one over a large vocabulary would lose its tail.
    """
    filling = -logprobs.shape[-1] % BLOCK
    probabilities = logprobs.exp()
    blocks = (pad(probabilities, (0, filling)) if filling else probabilities).unflatten(-1, (-1, BLOCK))
    ends = blocks.sum(-1).double().cumsum(-1)
    target = uniforms[:, None] * ends[:, -1:]
    block = quantile(ends, target)  # [b, 1]
    inside = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(-1)
    token = quantile(inside, target - (ends.gather(-1, block) - inside[:, -1:]))
    return (block * BLOCK + token)[:, 0].clamp_(max=logprobs.shape[-1] - 1)


def quantile(cumulative: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Where `target` [b, 1] falls in [b, n] running sums: never, by rounding, where nothing was added."""
    within = target.clamp(min=0).minimum(cumulative[:, -1:] * (1 - 1e-15))
    return torch.searchsorted(cumulative, within, right=True).clamp_(max=cumulative.shape[-1] - 1)  # of NaN
