"""Rows run end to end: a forward costs its tokens, not the padding between them.

The linear layers see all tokens of a microbatch in one line; attention alone puts them back into rows. Letters:
b = rows, t = longest row, n = real tokens, h = heads, e = size of a head.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from alignment.ppo.sequences import Sequences
from rollout.attention import attention_as, refuse_other_kinds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "packed"  # what transformers knows the attention below by
GROUP = 4  # rows that attention pads to one length; on a GPU all of a microbatch
STEP = 128  # oneDNN keeps a bfloat16 kernel for every shape it meets: counts are rounded up to this


@dataclass(frozen=True)
class Packing:
    """A microbatch as one line of `size` tokens: its rows end to end, then a filling that nothing reads.

    real: (b, t) bool, the tokens of the rows in the batch, which may be wider than they are. For attention a few
    neighbouring rows at a time are padded to their longest: groups, their (rows, longest); slots: (p,), for every
    token of these its place in the line, for padding any place; places: (n,), for every token of the line its slot.
    """

    real: Tensor
    groups: tuple[tuple[int, int], ...]
    slots: Tensor
    places: Tensor
    size: int

    @classmethod
    def of(cls, batch: Sequences, dtype: torch.dtype) -> Packing:
        lengths, device = batch.lengths, batch.ids.device
        few = GROUP if device.type == "cpu" else len(batch)
        groups = tuple((len(some), int(some.max())) for some in lengths.split(few))
        starts = lengths.cumsum(0) - lengths
        widths = torch.cat([lengths.new_full((rows,), longest) for rows, longest in groups])
        columns = torch.arange(batch.ids.shape[1], device=device)
        slot = columns < widths[:, None]  # (b, t)
        real = columns < lengths[:, None]
        slots = (starts[:, None] + columns.minimum(lengths[:, None] - 1))[slot]
        n = int(lengths.sum())
        return cls(real, groups, slots, real[slot].nonzero()[:, 0], line_length(n, dtype, device))

    def line(self, rows: Tensor) -> Tensor:
        """(b, t, ...) -> (1, size, ...), 0 in the filling."""
        return self.fill(rows[self.real])

    def fill(self, line: Tensor) -> Tensor:
        """(n, ...) -> (1, size, ...)."""
        missing = self.size - len(line)
        return (pad(line, [0, 0] * (line.ndim - 1) + [0, missing]) if missing else line)[None]

    def rows(self, line: Tensor) -> Tensor:
        """(1, size, d) -> (b, t, d), 0 in the padding."""
        empty = line.new_zeros(*self.real.shape, line.shape[-1])
        empty[self.real] = line[0, : len(self.places)]
        return empty

    @property
    def positions(self) -> Tensor:
        """(1, size) of each token in its row."""
        return self.line(torch.arange(self.real.shape[1], device=self.real.device).expand(self.real.shape))


class Spread(torch.autograd.Function):
    """Tokens of the line (size, ...) -> slots (p, ...). Padding repeats a token, and its gradient is known to be 0."""

    @staticmethod
    def forward(ctx: Any, line: Tensor, packing: Packing) -> Tensor:
        ctx.places, ctx.filling = packing.places, len(line) - len(packing.places)
        return line.index_select(0, packing.slots)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        found = gradient.index_select(0, ctx.places)
        return pad(found, [0, 0] * (found.ndim - 1) + [0, ctx.filling]), None


class Collect(torch.autograd.Function):
    """Slots (p, ...) -> tokens of the line (n, ...); padding gets no gradient."""

    @staticmethod
    def forward(ctx: Any, slots: Tensor, packing: Packing) -> Tensor:
        ctx.places, ctx.shape = packing.places, slots.shape
        return slots.index_select(0, packing.places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient.new_zeros(ctx.shape).index_copy_(0, ctx.places, gradient), None


def line_length(tokens: int, dtype: torch.dtype, device: torch.device) -> int:
    """`tokens`, rounded up where odd counts would fill the memory with kernels."""
    coarse = dtype is torch.bfloat16 and device.type == "cpu"
    return -(-tokens // STEP) * STEP if coarse else tokens


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each row, as transformers calls it: (1, h, size, e) -> (1, size, h, e).

    On a CPU it is in float32 whatever the model is in: the bfloat16 backward there takes two to three times as long.
    Raises TypeError for attention of another kind.
    """
    refuse_other_kinds(module, attention_mask, sliding_window, others)
    wide = torch.float32 if query.device.type == "cpu" else query.dtype
    sizes = [rows * longest for rows, longest in packing.groups]
    slots = (Spread.apply(x[0].transpose(0, 1), packing).to(wide).split(sizes) for x in (query, key, value))
    found = []
    for (rows, longest), *three in zip(packing.groups, *slots, strict=True):
        mask = window_mask(longest, sliding_window, query.device)
        q, k, v = (x.unflatten(0, (rows, longest)).transpose(1, 2) for x in three)
        out = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        found.append(out.transpose(1, 2).flatten(0, 1).to(query.dtype))
    return packing.fill(Collect.apply(torch.cat(found), packing)), None


def window_mask(longest: int, window: int | None, device: torch.device) -> Tensor | None:
    """(t, t) bool where a layer sees the last `window` tokens only; None if the rows are no longer than that."""
    if window is None or longest <= window:
        return None
    steps = torch.arange(longest, device=device)
    back = steps[:, None] - steps
    return (back >= 0) & (back < window)


def packed(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Inside, the model's attention is `packed_attention` and wants a `packing`."""
    return attention_as(model, NAME, packed_attention)
