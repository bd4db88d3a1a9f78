"""Where in a model a method puts its weights: the full names of the modules it adapts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from alignment.errors import AlignmentError
from alignment.tuning.config import TuningConfig

if TYPE_CHECKING:
    import torch

LAYER = re.compile(r"\.layers\.(\d+)\.")  # where decoders of this stack keep their layers
ATTENTION_OUTPUT = ("o_proj", "out_proj", "dense", "wo")
FEED_FORWARD = ("mlp", "feed_forward", "block_sparse_moe", "ffn")
LINEAR_ONLY = (
    "dora",
    "pissa",
    "moe",
)  # PEFT adapts stacked experts as well, which these cannot or do themselves
INNER = (
    "down_proj",
    "fc2",
    "dense_4h_to_h",
    "w2",
)  # whose inputs are the inner units of the feed-forward part


def named(*names: str) -> Callable[[str, Any], bool]:
    return lambda name, _module: name.rpartition(".")[2] in names


def linear(name: str, module: Any) -> bool:
    from torch.nn import Linear

    return isinstance(module, Linear) and bool(LAYER.search(name))


def norm(_name: str, module: Any) -> bool:
    return type(module).__name__.endswith("Norm")


def attention_output(name: str, _module: Any) -> bool:
    parts = name.split(".")
    return parts[-1] in ATTENTION_OUTPUT and "attn" in name.removesuffix(parts[-1])


def feed_forward(name: str, _module: Any) -> bool:
    return bool(re.search(r"\.layers\.\d+\.[^.]+$", name)) and named(*FEED_FORWARD)(name, _module)


def places(
    tuning: TuningConfig, model: torch.nn.Module, wanted: Callable[[str, Any], bool], what: str
) -> list[str]:
    """Names of the modules that are `wanted` (name, module), in the last `tuning.layers` layers if that is set.

    `tuning.target_modules` narrows linear layers down to those it names. Raises AlignmentError if none is left.
    """
    if isinstance(tuning.target_modules, list):
        wanted, what = named(*tuning.target_modules), f"layers named {' or '.join(tuning.target_modules)}"
    names = base_modules(model)
    found = [name for name, module in names.items() if wanted(name, module)]
    if not found:
        raise AlignmentError(
            f"tuning.method={tuning.method} needs {what}, and this model has none: name other layers by "
            "tuning.target_modules, or choose another method"
        )
    return in_last_layers(tuning, found, list(names))


def base_modules(model: torch.nn.Module) -> dict[str, Any]:
    """The modules of `model` by name, as they were before any adapters were put around them."""
    adapted = {name for name, module in model.named_modules() if hasattr(module, "base_layer")}

    def outer(name: str) -> str | None:
        return next((home for home in adapted if name.startswith(f"{home}.")), None)

    found = {}
    for name, module in model.named_modules():
        home = outer(name)
        if home is None and name not in adapted:
            found[name] = module
        elif home is not None and name.startswith(f"{home}.base_layer"):
            found[home + name.removeprefix(f"{home}.base_layer")] = module
    return found


def in_last_layers(tuning: TuningConfig, names: list[str], every: list[str]) -> list[str]:
    """Those of `names` in the last `tuning.layers` layers among `every` name of the model.

    Raises AlignmentError if the model has fewer layers, or none of the names lies in these.
    """
    if tuning.layers is None:
        return names
    depth = 1 + max((int(layer[1]) for name in every if (layer := LAYER.search(name))), default=-1)
    kept = [
        name
        for name in names
        if (layer := LAYER.search(f"{name}.")) and int(layer[1]) >= depth - tuning.layers
    ]
    if not kept or tuning.layers > depth:
        raise AlignmentError(f"tuning.layers={tuning.layers} does not fit this model of {depth} layers")
    return kept


def linear_layers(tuning: TuningConfig, model: torch.nn.Module) -> str | list[str]:
    """The linear layers that `tuning` names, or PEFT's word for all of them, experts included."""
    chosen = tuning.target_modules or "all-linear"
    if isinstance(chosen, str) and tuning.layers is None and tuning.method not in LINEAR_ONLY:
        return chosen
    found = places(tuning, model, linear, "linear layers")
    return chosen if isinstance(chosen, list) and tuning.layers is None else found
