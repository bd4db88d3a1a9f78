"""What an engine with a copy of the policy is given of it: its adapter as a folder, or its weights by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rollout.errors import RolloutError


def has_adapters(policy: nn.Module) -> bool:
    """Whether `policy` is a PeftModel."""
    return hasattr(policy, "peft_config") and hasattr(policy, "get_base_model")


def write_adapter(policy: Any, folder: Path) -> None:
    """The active adapter of a PeftModel, whatever its name and beside whichever others, as an adapter folder.

    Raises RolloutError for what is not one plain LoRA.
    """
    from peft import LoraConfig, get_peft_model_state_dict
    from safetensors.torch import save_file

    active = list(policy.active_adapters)
    if len(active) != 1 or not isinstance(policy.peft_config[active[0]], LoraConfig):
        raise RolloutError(
            f"an engine takes one LoRA adapter, and the policy has {' + '.join(active) or 'none'}: "
            "use engine=transformers"
        )
    # the embeddings are the base's: PEFT would look for them on the hub to see whether they grew
    tensors = get_peft_model_state_dict(policy, adapter_name=active[0], save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    policy.peft_config[active[0]].save_pretrained(folder)


def named_weights(policy: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(name in the checkpoint, tensor) of every weight; those that are tied come once, 4-bit ones in full.

    Of a PeftModel these are the base's, without what its adapters add: see `rollout.merging` for the sum.
    """
    base = policy.get_base_model() if has_adapters(policy) else policy
    for name, weight in base.named_parameters():
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), in_full(weight).detach()


def is_four_bit(policy: nn.Module) -> bool:
    return any(type(weight).__name__ == "Params4bit" for weight in policy.parameters())


def in_full(weight: Any) -> torch.Tensor:
    """What a 4-bit weight stands for, exactly; any other is returned as it is."""
    if getattr(weight, "quant_state", None) is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state)
