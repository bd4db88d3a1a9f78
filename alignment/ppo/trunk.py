"""The transformer under the heads, and running it in two parts.

Where adapters sit on the upper layers only, what lies below them is the same function for the policy, the critic and
the reference at any time: it is run once an iteration, and every later forward starts from its hidden states.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alignment.ppo.sequences import Sequences
from alignment.tuning.apply import LAYER

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def trunk(model: PreTrainedModel) -> Any:
    """The transformer under a head: a causal model's or a classifier's."""
    return getattr(model, model.base_model_prefix)


def response_states(model: PreTrainedModel, batch: Sequences, first_layer: int = 0) -> Tensor:
    """Hidden states (n, d) at the positions that predict the response tokens; nothing else reaches a head.

    If the batch carries the states below `first_layer`, the forward starts there.
    """
    if batch.states is None:
        states = trunk(model)(input_ids=batch.ids, use_cache=False).last_hidden_state
    else:
        with layers_from(trunk(model), first_layer):
            states = trunk(model)(inputs_embeds=batch.states, use_cache=False).last_hidden_state
    return states[batch.predicts]


@torch.no_grad()
def lower_states(model: PreTrainedModel, ids: Tensor, first_layer: int) -> Tensor:
    """Hidden states (b, t, d) that enter layer `first_layer`, for right-padded ids (b, t)."""
    found: list[Tensor] = []

    class Reached(Exception):
        pass

    def stop(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0])
        raise Reached

    hook = trunk(model).layers[first_layer].register_forward_pre_hook(stop)
    try:
        trunk(model)(input_ids=ids, use_cache=False)
    except Reached:
        pass
    finally:
        hook.remove()
    return found[0]


@contextmanager
def layers_from(transformer: Any, first_layer: int) -> Iterator[None]:
    """Inside, the transformer consists of its upper layers only."""
    every = transformer.layers
    transformer.layers = every[first_layer:]
    try:
        yield
    finally:
        transformer.layers = every


def first_trained_layer(names: Iterable[str]) -> int:
    """The lowest layer among these names of trained weights; 0 if one lies outside of the layers."""
    layers = [int(found[1]) if (found := LAYER.search(name)) else 0 for name in names]
    return min(layers, default=0)


@torch.no_grad()
def splits_exactly(model: PreTrainedModel, first_layer: int) -> bool:
    """Whether a forward in two parts gives what one in a piece gives (some models scale their embeddings)."""
    ids = torch.arange(2, 10, device=model.device).view(2, 4)
    whole = Sequences(ids, torch.tensor([1, 2]), torch.tensor([3, 2])).to(model.device)
    try:
        split = whole.with_states(lower_states(model, ids, first_layer))
        return torch.equal(response_states(model, whole), response_states(model, split, first_layer))
    except (AttributeError, TypeError, ValueError):  # a model of another build
        return False
