"""LoRA adapters folded into the weights under them, for whoever reads weights: a server that is sent them, say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def adapters_merged(model: nn.Module) -> Iterator[None]:
    """Inside, plain linear layers with plain LoRA hold W + s B A; after, W itself again, not W + s B A - s B A.

    Layers of another kind (4-bit, sharded, DoRA) run their adapters as always. A second copy of the adapted weights
    is in memory meanwhile.
    """
    before: list[tuple[Any, nn.Parameter]] = []
    try:
        layers: list[Any] = [layer for layer in model.modules() if mergeable(layer)]
        for layer in layers:
            before.append((layer, layer.base_layer.weight))
            # a parameter of its own: the old one may be tied to another layer, the embeddings say
            layer.base_layer.weight = nn.Parameter(merged_weight(layer), requires_grad=False)
            layer.merged_adapters = list(layer.active_adapters)
        yield
    finally:
        for layer, weight in before:
            layer.base_layer.weight = weight
            layer.merged_adapters = []


def mergeable(layer: Any) -> bool:
    if not hasattr(layer, "lora_A"):
        return False
    from peft.tuners.lora.layer import Linear

    base = getattr(layer, "base_layer", None)
    return (
        type(layer) is Linear
        and type(base) is nn.Linear
        and type(base.weight) is nn.Parameter
        and type(base.weight.data) is torch.Tensor
        and not layer.lora_variant
        and not (
            layer.disable_adapters or layer.merged or layer.fan_in_fan_out or any(layer.lora_bias.values())
        )
    )


@torch.no_grad()
def merged_weight(layer: Any) -> torch.Tensor:
    """W + the sum over active adapters of s B A, summed in float32, in W's own type."""
    weight = layer.base_layer.weight.data
    total = weight.float()
    for name in layer.active_adapters:
        if name in layer.lora_A:
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            total = torch.addmm(total, b.float(), a.float(), alpha=layer.scaling[name])
    return total.to(weight.dtype)
