"""The transformer under the heads, and running it for what is asked of it only.

Where adapters sit on the upper layers only, what lies below them is the same function for the policy, the critic and
the reference at any time: it is run once an iteration, and every later forward starts from its hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from alignment.ppo.packing import Packing, line_length, packed
from alignment.ppo.sequences import Sequences
from reward.upper_layers import layers_from, lowest_layer
from rollout.forwards import forward_as

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Shortcuts:
    """What need not be computed for this model, or not be kept.

    packed: rows run end to end, without padding; first_layer: layers below this one are run once an iteration. These
    are tried on the model once, since not every build allows both. checkpointed: layers keep only what enters them, and
    the backward runs them again (gradient checkpointing; Chen et al. 2016, arXiv 1604.06174).
    """

    packed: bool = False
    first_layer: int = 0
    checkpointed: bool = False

    @classmethod
    def of(cls, model: PreTrainedModel, trained: Iterable[str] = ()) -> Shortcuts:
        """Those that leave `model`, of whose weights the ones named `trained` are, as it is."""
        found = cls(packed=same_states(model, cls(), cls(packed=True)))
        split = cls(found.packed, lowest_layer(trained))
        return split if split.first_layer and same_states(model, found, split) else found


WHOLE = Shortcuts()
Surroundings = Callable[[], AbstractContextManager[None]]


def trunk(model: PreTrainedModel) -> Any:
    """The transformer under a head: a causal model's or a classifier's."""
    return getattr(model, model.base_model_prefix)


def response_states(model: PreTrainedModel, batch: Sequences, shortcuts: Shortcuts = WHOLE) -> Tensor:
    """Hidden states (n, d) at the positions that predict the response tokens; nothing else reaches a head.

    If the batch carries the states below the first trained layer, the forward starts there.
    """
    first = 0 if batch.states is None else shortcuts.first_layer
    inputs, name = (batch.ids, "input_ids") if batch.states is None else (batch.states, "inputs_embeds")
    entered = partial(checkpointed, trunk(model)) if shortcuts.checkpointed else enter
    with layers_from(trunk(model), first):
        if not shortcuts.packed:
            with entered(nullcontext):
                return trunk(model)(**{name: inputs}, use_cache=False).last_hidden_state[batch.predicts]
        packing = Packing.of(batch, model.dtype)
        wanted = batch.predicts[packing.real].nonzero()[:, 0]
        with entered(partial(packed_for, model, wanted)):
            return run_packed(model, packing, **{name: packing.line(inputs)})[0, wanted]


def run_packed(model: PreTrainedModel, packing: Packing, **inputs: Tensor) -> Tensor:
    """Last hidden states (1, size, d), inside `packed`."""
    found = trunk(model)(**inputs, position_ids=packing.positions, use_cache=False, packing=packing)
    return found.last_hidden_state


@contextmanager
def packed_for(model: PreTrainedModel, wanted: Tensor) -> Iterator[None]:
    """Inside, the model runs packed rows, and its last MLP the `wanted` (n,) tokens of their line only."""
    with packed(model), last_mlp_for(trunk(model), wanted):
        yield


def enter(surroundings: Surroundings) -> AbstractContextManager[None]:
    return surroundings()


@contextmanager
def checkpointed(transformer: Any, surroundings: Surroundings) -> Iterator[None]:
    """Inside `surroundings`, layers keep only what enters them; the backward runs them again, in the same surroundings.

    Adapters must still be those of the forward by then: the backward comes before any other is switched on.
    """
    with ExitStack() as stack:
        stack.enter_context(surroundings())
        for layer in transformer.layers:
            again = partial(
                checkpoint,
                layer.forward,
                use_reentrant=False,
                preserve_rng_state=False,  # nothing is random in a layer without dropout
                context_fn=lambda: (nullcontext(), surroundings()),
            )
            stack.enter_context(forward_as(layer, again))
        yield


@contextmanager
def last_mlp_for(transformer: Any, wanted: Tensor) -> Iterator[None]:
    """Inside, the last layer's MLP runs on the `wanted` (n,) tokens of a line only: no other state is read after it."""
    mlp = getattr(transformer.layers[-1], "mlp", None)
    if mlp is None:
        yield
        return
    whole = mlp.forward

    def some(line: Tensor) -> Tensor:  # (1, size, d)
        n = len(wanted)
        places = pad(wanted, [0, line_length(n, line.dtype, line.device) - n])
        return torch.zeros_like(line).index_copy(1, wanted, whole(line.index_select(1, places))[:, :n])

    with forward_as(mlp, some):
        yield


@torch.no_grad()
def lower_states(model: PreTrainedModel, batch: Sequences, shortcuts: Shortcuts) -> Tensor:
    """Hidden states (b, t, d) that enter the first trained layer."""
    found: list[Tensor] = []

    class Reached(Exception):
        pass

    def stop(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0])
        raise Reached

    hook = trunk(model).layers[shortcuts.first_layer].register_forward_pre_hook(stop)
    packing = Packing.of(batch, model.dtype)
    try:
        if shortcuts.packed:
            with packed(model):
                run_packed(model, packing, input_ids=packing.line(batch.ids))
        else:
            trunk(model)(input_ids=batch.ids, use_cache=False)
    except Reached:
        pass
    finally:
        hook.remove()
    return packing.rows(found[0]) if shortcuts.packed else found[0]


@torch.no_grad()
def same_states(model: PreTrainedModel, one: Shortcuts, other: Shortcuts) -> bool:
    """Whether forwards by both ways give the same but for rounding (some models scale their embeddings, say)."""
    ids = torch.arange(2, 14, device=model.device).view(2, 6)
    batch = Sequences(ids, torch.tensor([1, 2]), torch.tensor([5, 2])).to(model.device)
    try:
        plain, short = (
            response_states(model, batch.with_states(lower_states(model, batch, way)), way)
            if way.first_layer
            else response_states(model, batch, way)
            for way in (one, other)
        )
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):  # a model of another build
        return False
    allowed = 16 * torch.finfo(plain.dtype).eps * plain.abs().max()
    return bool((plain - short).abs().max() <= allowed)
