"""A transformer entered above its lower layers, where these are the same function for all that is asked of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

LAYER = re.compile(r"\.layers\.(\d+)\.")


def lowest_layer(names: Iterable[str]) -> int:
    """The lowest layer among these names of weights; 0 if one lies outside of the layers."""
    layers = [int(found[1]) if (found := LAYER.search(name)) else 0 for name in names]
    return min(layers, default=0)


@contextmanager
def layers_from(transformer: Any, first_layer: int) -> Iterator[None]:
    """Inside, the transformer consists of its upper layers only."""
    if first_layer == 0:
        yield
        return
    config, every = transformer.config, transformer.layers
    kinds = getattr(config, "layer_types", None)  # some models choose a layer's mask and rotation by these
    try:
        transformer.layers = every[first_layer:]
        if kinds:
            config.layer_types = kinds[first_layer:]
        yield
    finally:
        transformer.layers = every
        if kinds:
            config.layer_types = kinds
