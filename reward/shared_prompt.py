"""A pair as one row: the prompt once, then both answers, neither of which sees the other.

Side by side a pair costs its prompt twice, and its shorter side is padded to the longer one; as one row it costs its
tokens. Letters: b = pairs, t = tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPT, CHOSEN, REJECTED, PADDING = range(4)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with, short of the last token of either, which its score is read from."""
    most = min(len(one), len(other)) - 1
    return next((i for i in range(most) if one[i] != other[i]), most)


def row_length(chosen: Sequence[int], rejected: Sequence[int]) -> int:
    return len(chosen) + len(rejected) - common_prefix(chosen, rejected)


def as_rows(
    chosen: Sequence[Sequence[int]], rejected: Sequence[Sequence[int]], pad: int
) -> dict[str, Tensor]:
    """Token ids of both sides -> input_ids, attention_mask (b, t) and part_lengths (b, 3): of prompt and answers."""
    rows, parts = [], []
    for one, other in zip(chosen, rejected, strict=True):
        prompt = common_prefix(one, other)
        rows.append([*one, *other[prompt:]])
        parts.append([prompt, len(one) - prompt, len(other) - prompt])
    width = max(map(len, rows))
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": real, "part_lengths": torch.tensor(parts)}


def parts_of(part_lengths: Tensor, width: int) -> Tensor:
    """(b, 3) -> (b, t): which part each token belongs to."""
    ends = part_lengths.cumsum(1)  # (b, 3)
    return (torch.arange(width, device=ends.device)[None, :, None] >= ends[:, None, :]).sum(-1)


def positions(part_lengths: Tensor, parts: Tensor) -> Tensor:
    """(b, t): each token's place in its own conversation; the rejected answer begins where the chosen one did."""
    place = torch.arange(parts.shape[1], device=parts.device).expand(parts.shape)
    return torch.where(parts >= REJECTED, place - part_lengths[:, CHOSEN, None], place)


def visible(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """(b, 1, t, t), added to attention's logits: 0 where a token sees another, in its part or the prompt, before it."""
    before = torch.ones(parts.shape[1], parts.shape[1], dtype=torch.bool, device=parts.device).tril()
    allowed = (parts[:, None, :] == PROMPT) | (parts[:, None, :] == parts[:, :, None])
    hidden = ~(before & allowed)[:, None]
    far = torch.finfo(dtype).min / 2  # half of it: autocast may choose a narrower type, which rounds up
    return torch.zeros(hidden.shape, dtype=dtype, device=parts.device).masked_fill(hidden, far)


def pair_scores(
    model: Callable[..., Any], head: torch.nn.Module, dtype: torch.dtype, batch: dict[str, Tensor]
) -> Tensor:
    """Scores (2 b, 1) of the pairs' sides, chosen ones first, by one forward of `model`, whose score head is `head`.

    model: the classifier, or what wraps it for several devices.
    batch: as from `as_rows`.
    """
    lengths = batch["part_lengths"]
    parts = parts_of(lengths, batch["input_ids"].shape[1])
    with outputs_of(head) as found:
        model(
            input_ids=batch["input_ids"],
            position_ids=positions(lengths, parts),
            attention_mask=visible(parts, dtype),
            use_cache=False,
        )
    last = lengths.cumsum(1)[:, CHOSEN:] - 1  # (b, 2)
    return found[0].gather(1, last[..., None]).transpose(0, 1).reshape(-1, 1)


@contextmanager
def outputs_of(module: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Inside, what `module` gives is also kept: a classifier itself returns the score of one token only."""
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


@torch.no_grad()
def shares_prompts(model: PreTrainedModel, pad: int, max_length: int) -> bool:
    """Whether rows give the model's own scores of pairs up to `max_length`: tried on two short ones.

    Not every build allows it: attention that takes no mask, a window, states that run on from token to token.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window is not None and window < max_length:
        return False
    ids = [int(i) for i in torch.arange(2, 22) % config.vocab_size if i != pad]
    chosen, rejected = [ids[:9], ids[2:5]], [[*ids[:5], *ids[11:14]], [*ids[2:4], *ids[9:16]]]
    rows = {name: tensor.to(model.device) for name, tensor in as_rows(chosen, rejected, pad).items()}
    was_training = model.training
    model.eval()
    try:
        alone = torch.cat(
            [model(input_ids=torch.tensor([side], device=model.device)).logits for side in chosen + rejected]
        )
        together = pair_scores(model, score_head(model), model.dtype, rows)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):  # a model of another build
        return False
    finally:
        model.train(was_training)
    allowed = 32 * torch.finfo(model.dtype).eps * alone.abs().max().clamp(min=1)
    return bool((alone - together).abs().max() <= allowed)


def score_head(model: Any) -> torch.nn.Module:
    """The score head of a reward model, whole or wrapped by PEFT."""
    return model.get_base_model().score if hasattr(model, "get_base_model") else model.score
