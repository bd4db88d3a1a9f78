"""One decoding step whose every tensor stays at its place in memory, so that a GPU can replay it as a whole.

A forward of one token a row is hundreds of small kernels, and launching them one by one takes longer than they run. A
CUDA graph records the launches once and replays them at once. Letters: b = rows, t = tokens so far, v = vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from rollout.cache import FixedLayer, GrowingLayer


def replays(model: Any, cache: DynamicCache) -> bool:
    """Whether steps are to be recorded and replayed: on CUDA, where every layer keeps all keys; 4-bit and 8-bit weights
    are left out, whose kernels nobody has tried this with."""
    return (
        model.device.type == "cuda"
        and not getattr(model, "is_quantized", False)
        and all(type(layer) is GrowingLayer and layer.room is not None for layer in cache.layers)
    )


class ReplayedStep:
    """Called with the newest tokens, gives the logits (b, v) of the next, and keeps the former in its cache."""

    def __init__(self, model: Any, cache: DynamicCache, real: torch.Tensor, room: int) -> None:
        """`cache` holds the prompts, `real` (b, t) says which of its tokens are; there is room for so many more."""
        b, t = real.shape
        self.model = model
        size = -(-(t + room) // 8) * 8  # attention copies masks of other sizes
        self.place = torch.tensor([t], device=real.device)  # of the newest token in the cache
        self.cache = DynamicCache()
        self.cache.layers = [FixedLayer(layer, size, self.place) for layer in cache.layers]
        self.real = torch.cat([real, real.new_zeros(b, size - t)], -1)
        self.inputs = self.place.new_zeros(b, 1)
        self.positions = self.place.new_zeros(b, 1)
        self.logits = torch.empty(0)
        self.recordable = real.device.type == "cuda"
        self.graph: Any = None  # recorded at the first call, and anew once rows have left

    def __call__(self, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """inputs, positions: (b, 1). The logits are overwritten by the next call."""
        self.inputs.copy_(inputs)
        self.positions.copy_(positions)
        self.real.index_fill_(1, self.place, True)
        if self.recordable and self.graph is None:
            self.record()
        if self.graph is None:
            self.logits = self.forward()
        else:
            self.graph.replay()
        self.place += 1
        return self.logits

    def forward(self) -> torch.Tensor:
        found = self.model(
            input_ids=self.inputs,
            real=self.real,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return found.logits[:, -1]  # type: ignore[no-any-return]

    def record(self) -> None:
        """Record a step, unless the model looks at its values on the way, as some do to choose experts."""
        graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(aside):
                for _ in range(2):  # to warm up, as recording wants; the cache is written at the same place
                    self.forward()
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(graph):
                self.logits = self.forward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            self.recordable = False
        else:
            self.graph = graph

    def keep(self, rows: torch.Tensor) -> None:
        """Only these rows go on."""
        self.graph = None
        self.cache.batch_select_indices(rows)
        self.real, self.inputs, self.positions = self.real[rows], self.inputs[rows], self.positions[rows]
