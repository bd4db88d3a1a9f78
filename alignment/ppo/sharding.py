"""Weights split over the processes by layer (FSDP2; Zhao et al. 2023, arXiv 2304.11277).

A process holds its part of every layer and gathers a layer's whole weights only while it runs. Embeddings, the last
norm, heads and adapters are whole on every process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from alignment.ppo.processes import is_main


def split_layers(models: nn.Module) -> None:
    """Split the layers of every transformer in `models` over the processes; their gradients will be sums."""
    transformers: list[Any] = [
        m for m in models.modules() if isinstance(getattr(m, "layers", None), nn.ModuleList)
    ]
    for transformer in transformers:
        whole = set(transformer.parameters())
        for layer in transformer.layers:
            adapters = {p for name, p in layer.named_parameters() if "lora_" in name}
            whole -= set(layer.parameters()) - adapters
            as_sums(fully_shard(layer, ignored_params=adapters))
        fully_shard(transformer, ignored_params=whole)  # holds nothing: it lets layers be fetched ahead


def as_sums(layer: FSDPModule) -> None:
    """Losses are divided by the token count of all processes, so that gradients are to be added, not averaged."""
    layer.set_gradient_divide_factor(1.0)
    layer.set_force_sum_reduction_for_comms(True)


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Inside, `model` has all its weights on every process and can run without the others."""
    split = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in split:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in split:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def gathered(state: Any) -> Any:
    """Nested `state` with every split tensor whole again, for the main process to save; the others get None there."""
    if isinstance(state, DTensor):
        whole = state.full_tensor()
        return whole.cpu() if is_main() else None
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list):
        return [gathered(value) for value in state]
    return state


def split_like(whole: Tensor, other: Tensor) -> Tensor:
    """`whole` as this process's part of it, if `other` is split."""
    if not isinstance(other, DTensor):
        return whole
    return distribute_tensor(whole.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load whole `state`; what belongs to a split parameter is split like it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    of_parameters = {
        index: {
            key: split_like(value, parameters[index]) if value.shape == parameters[index].shape else value
            for key, value in values.items()
        }
        for index, values in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": of_parameters})


def clip_gradients(parameters: Sequence[nn.Parameter], largest: float) -> float:
    """Scale the gradients to a norm of at most `largest` over all processes; returns the norm before."""
    kinds = [[p for p in parameters if isinstance(p, DTensor) == split] for split in (False, True)]
    norms = [get_total_norm([p.grad for p in kind if p.grad is not None]) for kind in kinds if kind]
    norm = torch.stack([n.full_tensor() if isinstance(n, DTensor) else n for n in norms]).norm()
    for kind in kinds:
        clip_grads_with_norm_(kind, largest, norm)
    return float(norm)
