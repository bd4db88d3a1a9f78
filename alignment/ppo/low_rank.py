"""A frozen linear layer and LoRA's update as one operation (Hu et al. 2021, arXiv 2106.09685).

PEFT's own forward multiplies, scales and adds in passes of their own and casts to the adapter's float32, and autograd
adds up what the layer and its adapter say of their inputs in a pass more; on small models and on a CPU these cost as
much as the products, on a GPU a seventh of the update. Letters: n = tokens, i = inputs, o = outputs, r = rank.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class AdaptedLinear(torch.autograd.Function):
    """x W^T + bias + s x A^T B^T. x: (..., i), W: (o, i) and bias: (o,) or None, both frozen, A: (r, i), B: (o, r)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        ctx.scale, ctx.dtypes = scale, (a.dtype, b.dtype)
        a, b = a.to(x.dtype), b.to(x.dtype)
        lines = x.flatten(0, -2)  # (n, i)
        narrow = lines @ a.T  # (n, r)
        ctx.save_for_backward(x, narrow, weight, a, b)
        y = linear(lines, weight, bias).addmm_(narrow, b.T, alpha=scale)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:  # type: ignore[override]
        x, narrow, weight, a, b = ctx.saved_tensors
        lines = gradient.flatten(0, -2)  # (n, o)
        of_narrow = (lines @ b).mul_(ctx.scale)  # (n, r)
        of_a = (of_narrow.T @ x.flatten(0, -2)).to(ctx.dtypes[0])
        of_b = (narrow.T @ lines).T.mul_(ctx.scale).to(ctx.dtypes[1])  # thin times wide is the faster order
        of_x = (lines @ weight).addmm_(of_narrow, a).view(x.shape) if ctx.needs_input_grad[0] else None
        return of_x, None, None, of_a, of_b, None


def fuse_adapters(model: nn.Module) -> None:
    """Run every plain LoRA adapter on a plain linear layer of `model` through `AdaptedLinear`."""
    from peft.tuners.lora.layer import Linear

    layers: list[Any] = [module for module in model.modules() if type(module) is Linear]
    for layer in layers:
        plain = type(layer.base_layer) is nn.Linear and not any(layer.lora_bias.values())
        if plain and not layer.lora_variant and not layer.fan_in_fan_out:
            layer.forward = partial(adapted_forward, layer)


def adapted_forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A LoRA layer's forward: fused while one adapter is at work over frozen weights, else PEFT's own."""
    active, base = layer.active_adapters, layer.base_layer
    frozen = not (base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad))
    one = len(active) == 1 and active[0] in layer.lora_A
    if layer.disable_adapters or layer.merged or args or kwargs or not (one and frozen):
        return type(layer).forward(layer, x, *args, **kwargs)  # type: ignore[no-any-return]
    a, b = layer.lora_A[active[0]].weight, layer.lora_B[active[0]].weight
    return AdaptedLinear.apply(x, base.weight, base.bias, a, b, layer.scaling[active[0]])  # type: ignore[no-any-return]
