"""Prompt and response as one right-padded row, and where in it the response's predictions are.

Right padding with causal attention lets no real token see a pad, so no attention mask and no position ids are
needed in training forwards: positions are simply 0, 1, 2, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """Rows of [prompt | response | padding].

    ids: (b, t) int64. prompt_lengths, response_lengths: (b,) int64, each at least 1.
    states: (b, t, d), what enters the first tuned layer, where the layers below it are run only once.
    """

    ids: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor
    states: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row without padding: (b,)."""
        return self.prompt_lengths + self.response_lengths

    @property
    def response_mask(self) -> Tensor:
        """(b, r) bool, r the longest response: true where a row has that response token."""
        columns = torch.arange(int(self.response_lengths.max()), device=self.ids.device)
        return columns < self.response_lengths[:, None]

    @property
    def predicts(self) -> Tensor:
        """(b, t) bool: true at the positions whose next token is a response token."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (columns >= self.prompt_lengths[:, None] - 1) & (columns < self.lengths[:, None] - 1)

    @property
    def targets(self) -> Tensor:
        """(n,) the response tokens of all rows in a line, in the order of `predicts`."""
        return self.ids[:, 1:][self.predicts[:, :-1]]

    def to_rows(self, flat: Tensor) -> Tensor:
        """(n,) values of the response tokens in a line -> (b, r), 0 where a row has ended."""
        mask = self.response_mask
        return torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)

    def with_states(self, states: Tensor) -> Sequences:
        return replace(self, states=states)

    def to(self, device: torch.device) -> Sequences:
        return Sequences(
            self.ids.to(device),
            self.prompt_lengths.to(device),
            self.response_lengths.to(device),
            None if self.states is None else self.states.to(device),
        )

    def select(self, rows: Tensor) -> Sequences:
        """Some of the rows, cut to the longest of them."""
        longest = int(self.lengths[rows].max())
        return Sequences(
            self.ids[rows, :longest],
            self.prompt_lengths[rows],
            self.response_lengths[rows],
            None if self.states is None else self.states[rows, :longest],
        )


def join(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int) -> Sequences:
    """Prompt and response token ids as right-padded rows. The pad id is never looked at again.

    Raises ValueError for a prompt or a response without tokens.
    """
    if any(not p for p in prompts) or any(not r for r in responses):
        raise ValueError("every prompt and every response needs at least one token")
    rows = [torch.tensor([*p, *r]) for p, r in zip(prompts, responses, strict=True)]
    return Sequences(
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id),
        torch.tensor([len(p) for p in prompts]),
        torch.tensor([len(r) for r in responses]),
    )
