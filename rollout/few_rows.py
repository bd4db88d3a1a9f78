"""Linear layers laid out for decoding, where a few rows are multiplied by every weight of a model.

Adapters become part of the weights, so that a step costs what the base's does, and on a CPU each weight lies in memory
as it is quickest read: reading is what the time goes into. Letters: o = outputs, i = inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from rollout.forwards import forward_as
from rollout.merging import mergeable, merged_weight

Product = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def few_rows_at_a_time(model: Any) -> Iterator[None]:
    """Inside, linear layers of a kind known here run as `product` of their weights, plain LoRA of theirs included.

    Of a model with adapters a second copy of these weights is in memory meanwhile, of any other one of the head's. The
    layers' own are not touched.
    """
    with ExitStack() as stack:
        for layer, weight, bias in linear_layers(model):
            stack.enter_context(forward_as(layer, product(weight, bias)))
        yield


def linear_layers(model: Any) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor | None]]:
    """(layer, weight (o, i), bias (o,) or None) of the head, of adapted layers, and beside these of what `packs`."""
    head = model.get_output_embeddings()
    adapted = [layer for layer in model.modules() if mergeable(layer)]
    for layer in adapted:
        yield layer, merged_weight(layer), layer.base_layer.bias
    inside = {id(part) for layer in model.modules() if hasattr(layer, "lora_A") for part in layer.modules()}
    for layer in model.modules():
        if id(layer) not in inside and plain(layer) and (layer is head or (adapted and packs(layer.weight))):
            yield layer, layer.weight.data, layer.bias


def plain(layer: Any) -> bool:
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and type(layer.weight.data) is torch.Tensor
    )


def product(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """x (..., i) -> x W^T + bias (..., o), without gradients."""
    if packs(weight):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        return partial(_packed_product, packed, bias)
    if weight.device.type == "cpu":
        weight = weight.t().contiguous().t()  # quickest for up to a hundred rows in float32
    return lambda x: linear(x, weight, bias)


def packs(weight: torch.Tensor) -> bool:
    """Whether oneDNN has a layout of its own for this weight, in which it need not be put for every product anew."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _packed_product(packed: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return found
