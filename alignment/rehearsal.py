"""One training step on the meta device: no weights, no arithmetic, only the count of what would be held at once."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface


class Held(TorchDispatchMode):
    """Inside, `now` is the size in bytes of the tensors that were made and still live, and `most` its highest."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.count(tensor.untyped_storage())
        return made

    def count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.freed, key, size)

    def ignore(self, model: torch.nn.Module) -> None:
        """Not count the weights of `model`."""
        self.known |= {weight.untyped_storage()._cdata for weight in model.parameters()}

    def freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def activation_bytes(model: Any, rows: int, tokens: int, *, checkpointed: bool = False) -> int:
    """The most that the forward and backward of `model`, on meta, hold beside its weights and their gradients.

    They are of `rows` sequences of `tokens` tokens, none of which is padding.
    """
    AttentionInterface.register("rehearsed", rehearsed_attention)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.set_attn_implementation("rehearsed")
    model.train()
    if checkpointed:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    with torch.device("meta"), Held() as held:
        held.ignore(model)
        ids = torch.zeros(rows, tokens, dtype=torch.long)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    gradients = sum(weight.grad.nbytes for weight in model.parameters() if weight.grad is not None)
    return max(0, held.most - gradients)


def rehearsed_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """What a fused kernel keeps: queries, keys and values (b, heads, t, d), as many of each, and their result."""
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    result = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]
    return result.transpose(1, 2).contiguous(), None
