"""Attention for decoding: query heads that share a key head are read as its queries, so no key is copied.

transformers repeats keys and values for every query head wherever there is a mask; with a cache that copy is most of
a decoding step on a CPU. Letters: b = rows, h = heads, k = key heads, t = cached tokens, q = new tokens, e = head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "decoding"  # what transformers knows the attention below by
IDLE = {"dropout", "position_ids", "use_cache", "output_router_logits"}  # said to it, and nothing to it


def decoding_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    real: torch.Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: query (b, h, q, e), key and value (b, k, t, e) -> (b, q, h, e).

    real: (b, all tokens so far) bool, false where a row is padded on the left. Raises TypeError for attention of
    another kind.
    """
    refuse_other_kinds(module, attention_mask, sliding_window, others)
    b, h, q, e = query.shape
    k, t = key.shape[1:3]
    mask = real[:, None, None, -t:]  # a sliding layer's cache holds the newest tokens only
    if q == 1:
        out = scaled_dot_product_attention(
            query.view(b, k, h // k, e), key, value, attn_mask=mask, scale=scaling
        )
        return out.reshape(b, 1, h, e), None
    steps = torch.arange(t, device=query.device)
    back = steps[-q:, None] - steps
    seen = (back >= 0) & (back < (sliding_window or t))
    mask = (mask & seen) | (back == 0)  # a pad sees itself: seeing nothing would be NaN
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=h != k)
    return out.transpose(1, 2), None


def refuse_other_kinds(
    module: Any, mask: torch.Tensor | None, window: int | None, others: dict[str, Any]
) -> None:
    """Raises TypeError where a layer wants more than causal attention, in a window perhaps: capped scores, sinks,
    biases, chunks, a mask of its own. Such a wish may show in rows far longer than those a model is tried on."""
    odd = [name for name, value in others.items() if value is not None and name not in IDLE]
    config: Any = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    # counted from the end: where the lower layers are left out, their kinds are too
    own = "full_attention" if window is None else "sliding_attention"
    kind = kinds[module.layer_idx - config.num_hidden_layers] if kinds else own
    if odd or mask is not None or kind != own:
        raise TypeError(f"not plain attention: {', '.join(odd) or kind}")


@contextmanager
def attention_as(model: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Inside, the model's attention is `function`, which transformers knows by `name`."""
    from transformers import AttentionInterface

    AttentionInterface.register(name, function)
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before


def attention_for_decoding(model: Any) -> AbstractContextManager[None]:
    """Inside, the model's attention is `decoding_attention` and wants `real` in place of a mask."""
    return attention_as(model, NAME, decoding_attention)


@torch.no_grad()
def decodes_alike(model: Any) -> bool:
    """Whether `decoding_attention` leaves this model's logits as they are, tried on two short rows."""
    from rollout.cache import growing_cache

    ids = torch.tensor([[2, 3, 4], [2, 5, 6]], device=model.device)
    real = torch.tensor([[0, 1, 1], [1, 1, 1]], device=model.device, dtype=torch.bool)
    positions = (real.cumsum(-1) - 1).clamp(min=0)
    longer = torch.cat([real, real[:, -1:]], -1)

    def two_steps(first: dict[str, Any], second: dict[str, Any]) -> torch.Tensor:
        cache = growing_cache(model.config)
        model(ids, position_ids=positions, past_key_values=cache, use_cache=True, **first)
        then = positions[:, -1:] + 1
        out = model(ids[:, -1:], position_ids=then, past_key_values=cache, use_cache=True, **second)
        return out.logits[:, -1].float()  # type: ignore[no-any-return]

    plain = two_steps({"attention_mask": real.long()}, {"attention_mask": longer.long()})
    try:
        with attention_for_decoding(model):
            ours = two_steps({"real": real}, {"real": longer})
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):  # a model of another build
        return False
    allowed = 16 * torch.finfo(model.dtype).eps * plain.abs().max()
    return bool((plain - ours).abs().max() <= allowed)
