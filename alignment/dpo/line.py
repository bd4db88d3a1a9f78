"""Pairs end to end in one line: each prompt once, no padding, and neither answer sees the other.

Side by side a pair costs its prompt twice and every row is padded to the longest; in a line it costs its tokens. The
last token of a prompt predicts two tokens, the first of each answer, so it stands twice, at the head of both answers:
a pair is [prompt but its last token | last, first answer but its end | last, second answer but its end], and every
position predicts at most one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from alignment.ppo.packing import line_length
from rollout.attention import attention_as, refuse_other_kinds

NAME = "pairs"  # what transformers knows the attention below by
Parts = Sequence[tuple[int, int, int]]  # tokens of each pair's prompt, first and second answer, as above
IGNORED = -100  # the target of positions that predict nothing


def as_line(rows: Sequence[dict[str, Any]], pad_token_id: int, like: Tensor) -> dict[str, Tensor]:
    """Rows with prompt_ids, first_ids and second_ids -> part_lengths (b, 3); input_ids, position_ids, targets (1, n).

    like: a tensor of the model's dtype and device, on which it depends how n is rounded up.
    """
    ids: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    parts = []
    for row in rows:
        prompt = row["prompt_ids"]
        before = len(prompt) - 1
        ids += prompt[:before]
        positions += range(before)
        targets += [IGNORED] * before
        for answer in (row["first_ids"], row["second_ids"]):
            ids += [prompt[-1], *answer[:-1]]
            positions += range(before, before + len(answer))
            targets += answer
        parts.append([before, len(row["first_ids"]), len(row["second_ids"])])
    filling = line_length(len(ids), like.dtype, like.device) - len(ids)
    return {
        "part_lengths": torch.tensor(
            parts
        ),  # first: what counts the rows of a batch looks at the first tensor
        "input_ids": torch.tensor([ids + [pad_token_id] * filling]),
        "position_ids": torch.tensor([positions + [0] * filling]),
        "targets": torch.tensor([targets + [IGNORED] * filling]),
    }


def by_answer(line: Tensor, parts: Parts) -> Tensor:
    """Sums (b, 2) over the tokens of each answer, of values (1, n) that are 0 elsewhere."""
    lengths = torch.tensor([length for pair in parts for length in pair], device=line.device)
    owner = torch.arange(len(lengths), device=line.device).repeat_interleave(lengths)
    return line.new_zeros(len(lengths)).index_add(0, owner, line[0, : len(owner)]).view(-1, 3)[:, 1:]


def pair_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    parts: Parts,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention in each conversation of a line, as transformers calls it: (1, h, n, e) -> (1, n, h, e).

    On a CPU it is in float32 whatever the model is in: the bfloat16 backward there takes two to three times as long.
    Raises TypeError for attention of another kind, and for a window that a conversation is longer than.
    """
    refuse_other_kinds(module, attention_mask, sliding_window, others)
    longest = max(prompt + max(first, second) for prompt, first, second in parts)
    if sliding_window is not None and longest > sliding_window:
        raise TypeError(f"a conversation is longer than the window of {sliding_window} tokens")
    wide = torch.float32 if query.device.type == "cpu" else query.dtype
    attend = partial(scaled_dot_product_attention, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    sizes = [length for prompt, first, second in parts for length in (prompt + first, second)]
    filling = query.shape[2] - sum(sizes)
    pieces = [x.to(wide).split([*sizes, filling], dim=2) for x in (query, key, value)]
    found = []
    for i, (prompt, _, second) in enumerate(parts):
        (q, q2), (k, k2), (v, v2) = (x[2 * i : 2 * i + 2] for x in pieces)
        found.append(attend(q, k, v, is_causal=True))
        k2, v2 = (torch.cat([x[:, :, :prompt], x2], 2) for x, x2 in ((k, k2), (v, v2)))
        mask = torch.ones(second, prompt + second, dtype=torch.bool, device=q.device).tril(prompt)
        found.append(attend(q2, k2, v2, attn_mask=mask))
    out = torch.cat(found, 2).to(query.dtype)
    return pad(out, [0, 0, 0, filling]).transpose(1, 2), None


def pairs_in_line(model: Any) -> AbstractContextManager[None]:
    """Inside, the model's attention is `pair_attention` and wants `parts`."""
    return attention_as(model, NAME, pair_attention)
