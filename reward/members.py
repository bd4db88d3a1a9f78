"""Several reward models on one base: each an adapter with a score head of its own, scored in one pass over the base.

Adapters on the upper layers leave the lower ones the same function for all members: these are run once a batch.
Letters: b = rows of a batch, t = its tokens, n = sequences, k = members, d = size of a hidden state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reward.errors import RewardError
from reward.pairs import length_batches
from reward.upper_layers import layers_from, lowest_layer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[int], None]
FIRST = "default"  # PEFT's name for the adapter that lies in the folder itself; others lie in folders of their name


def member_names(model: Any) -> list[str]:
    """The adapters of a reward model in order; one name stands for a model without adapters."""
    return (
        sorted(model.peft_config, key=lambda name: (name != FIRST, len(name), name))
        if is_adapted(model)
        else [FIRST]
    )


def is_adapted(model: Any) -> bool:
    return hasattr(model, "peft_config")


def classifier(model: Any) -> Any:
    """The sequence classifier, in which PEFT puts its adapters."""
    return model.get_base_model() if is_adapted(model) else model


def trunk(model: Any) -> Any:
    """The transformer under the score head."""
    base = classifier(model)
    return getattr(base, base.base_model_prefix)


@torch.no_grad()
def score_members(
    model: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    *,
    pad_token_id: int,
    batch_tokens: int,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Raw scores (n, k) of token sequences by each member, in right-padded batches. Raises RewardError on NaN."""
    names = member_names(model)
    first_layer = shared_layers(model, names)
    scores = np.full((len(ids), len(names)), math.nan)
    for batch in length_batches([len(i) for i in ids], batch_tokens):
        width = len(ids[batch[0]])
        rows = torch.tensor([[*ids[i], *[pad_token_id] * (width - len(ids[i]))] for i in batch])
        lengths = torch.tensor([len(ids[i]) for i in batch])
        found = score_batch(model, names, rows.to(model.device), lengths.to(model.device), first_layer)
        scores[batch] = found.float().cpu().numpy()
        if progress:
            progress(len(batch))
    bad = int((~np.isfinite(scores)).any(1).sum())
    if bad:
        raise RewardError(
            f"{bad} of {len(scores)} scores are not finite: the reward model is broken or its dtype overflows"
        )
    return scores


def score_batch(model: Any, names: Sequence[str], rows: Tensor, lengths: Tensor, first_layer: int) -> Tensor:
    """(b, k) from token ids (b, t). The layers below `first_layer` run for the first member only."""
    mask = (torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]).long()
    last = torch.arange(len(rows), device=rows.device), lengths - 1
    transformer, head = trunk(model), classifier(model).score
    found, entered = [], None
    for name in names:
        if len(names) > 1:
            model.set_adapter(name)
        if first_layer and entered is not None:
            with layers_from(transformer, first_layer):
                states = transformer(inputs_embeds=entered, attention_mask=mask, use_cache=False)
        elif first_layer:
            with inputs_of(transformer.layers[first_layer]) as seen:
                states = transformer(input_ids=rows, attention_mask=mask, use_cache=False)
            entered = seen[0]
        else:
            states = transformer(input_ids=rows, attention_mask=mask, use_cache=False)
        found.append(head(states.last_hidden_state[last]).squeeze(-1))
    return torch.stack(found, 1)


def shared_layers(model: Any, names: Sequence[str]) -> int:
    """How many of the lowest layers no member adapts; 0 where the model cannot be entered above them."""
    if len(names) < 2:
        return 0
    adapted = [name for name, _ in model.named_parameters() if "lora_" in name]
    first = lowest_layer(adapted)
    return first if first and can_enter(model, names, first) else 0


def can_enter(model: Any, names: Sequence[str], first_layer: int) -> bool:
    """Whether entering at a layer gives what a whole forward does: tried on two short rows, as some models do not take
    their hidden states for embeddings (they scale these)."""
    rows, lengths = (
        torch.arange(2, 14, device=model.device).view(2, 6),
        torch.tensor([6, 3], device=model.device),
    )
    try:
        whole, entered = (score_batch(model, names[:2], rows, lengths, first) for first in (0, first_layer))
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):  # a model of another build
        return False
    allowed = 16 * torch.finfo(whole.dtype).eps * whole.abs().max().clamp(min=1)
    return bool((whole - entered).abs().max() <= allowed)


@contextmanager
def inputs_of(module: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Inside, the first argument of each call of `module` is kept."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


def opinions_of(
    scores: NDArray[np.float64], means: Sequence[float], weights: Sequence[float] = ()
) -> NDArray[np.float64]:
    """Raw scores (n, k) as the opinions (n, k) of members that score the same thing, or with `weights`, of members that
    score an aspect each, as the one opinion (n, 1) that is their weighted sum.

    means: of each member; every member is moved to the mean of the first, as a score is free up to a constant.
    """
    moved = scores - np.asarray(means) + means[0] if len(means) else scores
    return moved @ np.asarray(weights, float)[:, None] if weights else moved
