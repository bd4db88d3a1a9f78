"""Bottleneck adapters and UniPELT as a PEFT method of our own: no maintained library has them for these models.

A bottleneck adds up(gelu(down(y))) to what a module gives (Houlsby et al. 2019; Pfeiffer et al. 2020); UniPELT
(Mao et al. 2021, arXiv 2110.07577) weighs it, and LoRA on queries and values, by gates that read the input.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from torch.nn.functional import gelu

BOTTLENECK = "BOTTLENECK"


@dataclass
class BottleneckConfig(PeftConfig):
    """target_modules: modules whose outputs go through a bottleneck of `width`, their dimension `hidden_size`.

    low_rank_modules: linear layers that get LoRA of rank `width` instead, scaled by `scale`. gated: both are weighed
    by a learned sigmoid of the input of each token.
    """

    target_modules: list[str] = field(default_factory=list)
    low_rank_modules: list[str] = field(default_factory=list)
    hidden_size: int = 0
    width: int = 16
    scale: float = 2.0
    gated: bool = False
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BOTTLENECK


class Addition(nn.Module):
    """What is added for an input x and an output y: gate(x) * up(gelu(down(y))), or gate(x) * s * up(down(x)).

    Nothing at first: `up` starts at zero. Gates start at one half.
    """

    def __init__(self, config: BottleneckConfig, inputs: int, outputs: int, low_rank: bool) -> None:
        super().__init__()
        self.low_rank, self.scale = low_rank, config.scale
        self.down = nn.Linear(inputs if low_rank else outputs, config.width, bias=not low_rank)
        self.up = nn.Linear(config.width, outputs, bias=not low_rank)
        self.gate = nn.Linear(inputs, 1) if config.gated else None
        nn.init.normal_(self.down.weight, std=config.width**-0.5 if low_rank else 0.02)
        for start in (
            self.up.weight,
            self.up.bias,
            self.down.bias,
            *(self.gate.parameters() if self.gate else ()),
        ):
            if start is not None:
                nn.init.zeros_(start)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = x.to(self.up.weight.dtype), y.to(self.up.weight.dtype)
        added = self.up(self.down(x)) * self.scale if self.low_rank else self.up(gelu(self.down(y)))
        return added if self.gate is None else torch.sigmoid(self.gate(x)) * added


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A module with what is added to its output, one `Addition` an adapter."""

    adapter_layer_names = ("bottleneck_layers",)
    base_layer: nn.Module
    bottleneck_layers: nn.ModuleDict
    set_adapter: Any
    active_adapters: list[str]

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_layers = nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def add(self, name: str, config: BottleneckConfig, low_rank: bool) -> None:
        inputs, outputs = config.hidden_size, config.hidden_size
        if isinstance(self.base_layer, nn.Linear):
            inputs, outputs = self.base_layer.in_features, self.base_layer.out_features
        with next(self.base_layer.parameters()).device:
            self.bottleneck_layers[name] = Addition(config, inputs, outputs, low_rank)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return y
        for name in self.active_adapters:
            if name in self.bottleneck_layers:
                y = y + self.bottleneck_layers[name](x, y).to(y.dtype)
        return y


class BottleneckModel(BaseTuner):
    """What PEFT makes of a `BottleneckConfig`."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    @staticmethod
    def _check_target_module_exists(peft_config: BottleneckConfig, key: str) -> bool:
        # PEFT shortens long lists of names to the endings that they share
        endings = (f".{name}" for name in peft_config.target_modules)
        return key in peft_config.low_rank_modules or f".{key}".endswith(tuple(endings))

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        layer = target if isinstance(target, BottleneckLayer) else BottleneckLayer(target)
        layer.add(adapter_name, peft_config, current_key in peft_config.low_rank_modules)
        if layer is not target:
            layer.set_adapter(self.active_adapters)
            self._replace_module(parent, target_name, layer, target)


PEFT_TYPE_TO_CONFIG_MAPPING[BOTTLENECK] = BottleneckConfig
PEFT_TYPE_TO_TUNER_MAPPING[BOTTLENECK] = BottleneckModel
PEFT_TYPE_TO_PREFIX_MAPPING[BOTTLENECK] = BottleneckModel.prefix
