"""A key-value cache with room to grow: a decoding step writes one token and copies nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

GROWTH = 1.5  # room is for this many times the tokens there are, when it runs out


def growing_cache(config: Any) -> DynamicCache:
    """An empty cache for a model of `config`; layers with a sliding window keep transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """`keys` and `values`, (b, h, t, e), are views of the filled part of larger buffers."""

    keys: torch.Tensor
    values: torch.Tensor
    room: list[torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        have = self.get_seq_length()
        need = have + key_states.shape[-2]
        if self.room is None or need > self.room[0].shape[-2]:
            filled = (self.keys, self.values) if have else (key_states[:, :, :0], value_states[:, :, :0])
            self.room = [with_room(part, int(GROWTH * need)) for part in filled]
        for buffer, new in zip(self.room, (key_states, value_states), strict=True):
            buffer[:, :, have:need] = new
        self.keys, self.values = (buffer[:, :, :need] for buffer in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.room is not None:
            have, size = self.get_seq_length(), self.room[0].shape[-2]
            self.room = [with_room(part[:, :, :have], size, indices) for part in self.room]
            self.keys, self.values = (buffer[:, :, :have] for buffer in self.room)


class FixedLayer(DynamicLayer):  # type: ignore[misc]
    """`keys` and `values`, (b, h, size, e), never move: new tokens are written at `place` (1,), and the rest is 0."""

    def __init__(self, filled: GrowingLayer, size: int, place: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(filled.keys, filled.values)
        self.place = place
        missing = (0, 0, 0, size - filled.keys.shape[-2])
        self.keys, self.values = (pad(part, missing) for part in (filled.keys, filled.values))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys.index_copy_(2, self.place, key_states)
        self.values.index_copy_(2, self.place, value_states)
        return self.keys, self.values


def with_room(part: torch.Tensor, size: int, rows: torch.Tensor | None = None) -> torch.Tensor:
    """(b, h, t, e) -> (b or the rows asked for, h, size, e), the first t filled."""
    b, h, t, e = part.shape
    buffer = part.new_empty(b if rows is None else len(rows), h, size, e)
    buffer[:, :, :t] = part if rows is None else part[rows]
    return buffer
