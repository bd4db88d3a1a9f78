"""Learning rates that differ between weights: LoRA+ (Hayou et al. 2024), and layers that learn the slower the lower."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from alignment.tuning.config import TuningConfig
from alignment.tuning.places import LAYER

LORA_PLUS = 16.0  # rate of B over that of A, which the paper found to serve most models


def differ(tuning: TuningConfig) -> bool:
    return tuning.method == "lora_plus" or tuning.rate_decay != 1


def rate_groups(
    weights: Iterable[tuple[str, nn.Parameter]], tuning: TuningConfig, learning_rate: float
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: the trained ones of these named `weights`, by learning rate, highest first.

    The top layer and what lies above it learn at `learning_rate`, layer l of n at rate_decay^(n-1-l) of it, and
    what lies below the layers (the embeddings) at rate_decay^n.
    """
    trained = [(name, weight) for name, weight in weights if weight.requires_grad]
    depth = 1 + max((int(found[1]) for name, _ in trained if (found := LAYER.search(name))), default=-1)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in trained:
        layer = LAYER.search(name)
        below = depth if "embed" in name else depth - 1 - int(layer[1]) if layer else 0
        factor = tuning.rate_decay**below * (LORA_PLUS if is_fast(name, tuning) else 1)
        groups.setdefault(factor, []).append(weight)
    return [
        {"params": group, "lr": factor * learning_rate}
        for factor, group in sorted(groups.items(), key=lambda item: -item[0])
    ]


def is_fast(name: str, tuning: TuningConfig) -> bool:
    return tuning.method == "lora_plus" and ".lora_B." in name


def optimizer_for(model: nn.Module, tuning: TuningConfig, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW without weight decay on the trained weights of `model`."""
    return torch.optim.AdamW(rate_groups(model.named_parameters(), tuning, learning_rate), weight_decay=0.0)
