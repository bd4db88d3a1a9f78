"""PiSSA: LoRA that starts from the first singular vectors of each weight (Meng et al. 2024, arXiv 2404.02948).

The paper takes what LoRA starts from out of the weight, so that the base with adapters off is another model. Here the
weight stays: an adapter of twice the rank holds [A; A0] and [B, -B0], of which the start A0, B0 is kept as it is.
W + s (B A - B0 A0) is the same function and has the same gradients; adapters off is the base, and what is saved is
plain LoRA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ITERATIONS = 4  # of the randomised SVD, as in the paper's fast variant


@torch.no_grad()
def start_from_singular_vectors(model: nn.Module, adapter: str = "default") -> None:
    """Fill the LoRA layers of `adapter`, whose rank is twice that which learns. Weights on meta are left alone."""
    from peft.tuners.lora.layer import Linear

    for layer in model.modules():
        if isinstance(layer, Linear) and adapter in layer.lora_A:
            down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            if not down.is_meta:
                a, b = principal(layer.base_layer.weight, down.shape[0] // 2, layer.scaling[adapter])
                down.copy_(torch.cat([a, a]))
                up.copy_(torch.cat([b, -b], 1))
            keep_second_half(down, up)


def principal(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """A (r, i) and B (o, r) with scale * B A = the best approximation of `weight` (o, i) of that rank."""
    u, s, v = torch.svd_lowrank(weight.float(), q=min(rank, *weight.shape), niter=ITERATIONS)
    root = (s / scale).sqrt()
    missing = rank - len(s)  # of a matrix with fewer singular values
    a, b = root[:, None] * v.T, u * root
    return nn.functional.pad(a, (0, 0, 0, missing)), nn.functional.pad(b, (0, missing))


def keep_second_half(down: Any, up: Any) -> None:
    """No gradient reaches the start, and so no step of an optimizer without weight decay."""
    half = down.shape[0] // 2
    down.register_hook(
        lambda gradient: gradient * (torch.arange(2 * half, device=gradient.device) < half)[:, None]
    )
    up.register_hook(lambda gradient: gradient * (torch.arange(2 * half, device=gradient.device) < half))
