"""LoRA's update in two matrix products and nothing else (Hu et al. 2021, arXiv 2106.09685).

PEFT's own forward multiplies, scales and adds in passes of their own and casts to the adapter's float32; on small
models and on a CPU these cost as much as the products. Letters: n = tokens, i = inputs, o = outputs, r = rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LowRankUpdate(torch.autograd.Function):
    """y + s x A^T B^T. y: (..., o), x: (..., i), A: (r, i), B: (o, r); y is overwritten, unless it is a view.

    A linear layer with a bias gives a view, and for one that is overwritten autograd copies it about in the backward.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.scale, ctx.dtypes = scale, (a.dtype, b.dtype)
        a, b = a.to(x.dtype), b.to(x.dtype)
        narrow = x.flatten(0, -2) @ a.T  # (n, r)
        ctx.save_for_backward(x, narrow, a, b)
        lines = y.view(-1, y.shape[-1])
        if y._is_view():
            return torch.addmm(lines, narrow, b.T, alpha=scale).view(y.shape)
        ctx.mark_dirty(y)
        lines.addmm_(narrow, b.T, alpha=scale)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None]:  # type: ignore[override]
        x, narrow, a, b = ctx.saved_tensors
        lines = gradient.flatten(0, -2)
        of_narrow = (lines @ b).mul_(ctx.scale)  # (n, r)
        of_a = (of_narrow.T @ x.flatten(0, -2)).to(ctx.dtypes[0])
        of_b = (narrow.T @ lines).T.mul_(ctx.scale).to(ctx.dtypes[1])  # thin times wide is the faster order
        of_x = (of_narrow @ a).view(x.shape) if ctx.needs_input_grad[1] else None
        return gradient, of_x, of_a, of_b, None


class Fused:
    """What PEFT calls in place of its own forward of an adapter (a "LoRA variant")."""

    plain = True  # the update is s B A: it may be merged into the weight

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        return LowRankUpdate.apply(result, x, a, b, module.scaling[active_adapter])


def fuse_adapters(model: nn.Module) -> None:
    """Run every plain LoRA adapter on a plain linear layer of `model` through `LowRankUpdate`."""
    from peft.tuners.lora.layer import Linear

    layers: list[Any] = [module for module in model.modules() if type(module) is Linear]
    for layer in layers:
        plain = type(layer.base_layer) is nn.Linear and not any(layer.lora_bias.values())
        if plain and not layer.lora_variant and not layer.fan_in_fan_out:
            layer.lora_variant.update(dict.fromkeys(layer.lora_A, Fused))
            layer.cast_input_dtype_enabled = False  # else its inputs would be cast to the adapter's float32
