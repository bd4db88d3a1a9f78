"""Bottleneck adapters and UniPELT as a PEFT method of our own: no maintained library has them for these models.

A bottleneck adds up(gelu(down(y))) to what a module gives (Houlsby et al. 2019; Pfeiffer et al. 2020); UniPELT
(Mao et al. 2021, arXiv 2110.07577) weighs it, LoRA on queries and values, and a prefix by gates that read the input.

A prefix attends apart from the text: what its keys and values say to a query is added to what the text says, weighed by
the gate. He et al. 2022 (arXiv 2110.04366, section 3.1) show that prefix tuning is that, weighed by the attention which
the prefix wins from the text. So it reads one token at a time, and padding, packed rows and caches are as without it.

Shapes: h = heads, e = size of a head, l = virtual tokens of the prefix.
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
QUERIES = "q_proj"


@dataclass
class BottleneckConfig(PeftConfig):
    """target_modules: modules whose outputs go through a bottleneck of `width`, their dimension `hidden_size`.

    low_rank_modules: linear layers that get LoRA of rank `width` instead, scaled by `scale`. prefix_modules: layers at
    the end of an attention with heads of `head_size`, which gets a prefix of `width` virtual tokens; the layer of its
    queries is among low_rank_modules. gated: all are weighed by a learned sigmoid, of each token's own input.
    """

    target_modules: list[str] = field(default_factory=list)
    low_rank_modules: list[str] = field(default_factory=list)
    prefix_modules: list[str] = field(default_factory=list)
    hidden_size: int = 0
    head_size: int = 0
    width: int = 16
    scale: float = 2.0
    gated: bool = False
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BOTTLENECK


class Addition(nn.Module):
    """What an adapter adds to a module's input, or to its output. Nothing at first, and gates start at one half."""

    def __init__(self, gated: bool, inputs: int) -> None:
        super().__init__()
        self.gate = nn.Linear(inputs, 1) if gated else None
        if self.gate:
            set_to_zero(self.gate)

    def weighed(self, added: Tensor, by: Tensor) -> Tensor:
        """added: (..., o), by: (..., i), what the gate reads."""
        return added if self.gate is None else torch.sigmoid(self.gate(by)) * added

    def enter(self, x: Tensor) -> Tensor:
        return x

    def leave(self, _x: Tensor, y: Tensor) -> Tensor:
        return y


class Bottleneck(Addition):
    """y + gate(x) up(gelu(down(y)))"""

    def __init__(self, config: BottleneckConfig, inputs: int, outputs: int) -> None:
        super().__init__(config.gated, inputs)
        self.down, self.up = nn.Linear(outputs, config.width), nn.Linear(config.width, outputs)
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.down.bias)
        set_to_zero(self.up)

    def leave(self, x: Tensor, y: Tensor) -> Tensor:
        own = self.up.weight.dtype
        return y + self.weighed(self.up(gelu(self.down(y.to(own)))), x.to(own)).to(y.dtype)


class LowRank(Addition):
    """y + gate(x) s up(down(x))"""

    def __init__(self, config: BottleneckConfig, inputs: int, outputs: int) -> None:
        super().__init__(config.gated, inputs)
        self.scale = config.scale
        self.down, self.up = (
            nn.Linear(inputs, config.width, bias=False),
            nn.Linear(config.width, outputs, bias=False),
        )
        nn.init.normal_(self.down.weight, std=config.width**-0.5)
        set_to_zero(self.up)

    def leave(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.to(self.up.weight.dtype)
        return y + self.weighed(self.up(self.down(x)) * self.scale, x).to(y.dtype)


class Prefix(Addition):
    """x + gate(q) softmax(q K^T / sqrt(e)) V before the last layer of an attention whose queries are q, head by head.

    K and V: (h, l, e). Queries are taken as their layer gives them, since a prefix has no position.
    """

    def __init__(self, config: BottleneckConfig, inputs: int, queries: BottleneckLayer) -> None:
        super().__init__(config.gated, inputs)
        self._queries = (queries,)  # in a tuple, so that it does not become a part of this
        shape = inputs // config.head_size, config.width, config.head_size
        self.keys, self.values = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.zeros(shape))

    def enter(self, x: Tensor) -> Tensor:
        q = self._queries[0].take().to(self.keys.dtype)
        heads = q.unflatten(-1, (self.keys.shape[0], self.keys.shape[2]))
        weights = torch.einsum("...he,hle->...hl", heads * self.keys.shape[2] ** -0.5, self.keys).softmax(-1)
        said = torch.einsum("...hl,hle->...he", weights, self.values).flatten(-2)
        return x + self.weighed(said, q).to(x.dtype)


@torch.no_grad()
def set_to_zero(module: nn.Module) -> None:
    for weight in module.parameters():
        weight.zero_()


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
        self.asked = False  # whether a prefix waits for what this layer gives
        self._given: Tensor | None = None

    def add(self, name: str, addition: Addition, inference_mode: bool) -> None:
        self.bottleneck_layers[name] = addition
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def take(self) -> Tensor:
        """What this layer gave last; to be taken once."""
        given, self._given = self._given, None
        assert given is not None  # noqa: S101 (an attention makes its queries before it ends)
        return given

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters:
            return self.base_layer(x, *args, **kwargs)
        active: list[Any] = [
            self.bottleneck_layers[n] for n in self.active_adapters if n in self.bottleneck_layers
        ]
        for addition in active:
            x = addition.enter(x)
        y = self.base_layer(x, *args, **kwargs)
        for addition in active:
            y = addition.leave(x, y)
        if self.asked:
            self._given = y
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
        named = {*peft_config.low_rank_modules, *peft_config.prefix_modules}
        return key in named or f".{key}".endswith(tuple(endings))

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
        with next(layer.base_layer.parameters()).device:
            addition = addition_to(layer.base_layer, parent, current_key, peft_config)
        layer.add(adapter_name, addition, peft_config.inference_mode)
        if layer is not target:
            layer.set_adapter(self.active_adapters)
            self._replace_module(parent, target_name, layer, target)


def addition_to(module: nn.Module, parent: nn.Module, name: str, config: BottleneckConfig) -> Addition:
    """What `config` adds to the module of this full name. Raises ValueError where an attention cannot have a prefix."""
    inputs = outputs = config.hidden_size
    if isinstance(module, nn.Linear):
        inputs, outputs = module.in_features, module.out_features
    if name in config.prefix_modules:
        queries = getattr(parent, QUERIES, None)
        if not isinstance(queries, BottleneckLayer) or queries.base_layer.out_features != inputs:
            raise ValueError(f"the queries of {name} are not made by a {QUERIES} of its {inputs} inputs")
        queries.asked = True
        return Prefix(config, inputs, queries)
    return (LowRank if name in config.low_rank_modules else Bottleneck)(config, inputs, outputs)


PEFT_TYPE_TO_CONFIG_MAPPING[BOTTLENECK] = BottleneckConfig
PEFT_TYPE_TO_TUNER_MAPPING[BOTTLENECK] = BottleneckModel
PEFT_TYPE_TO_PREFIX_MAPPING[BOTTLENECK] = BottleneckModel.prefix
