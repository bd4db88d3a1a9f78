"""Small random models of many families, far from uniform, so that a wrong position, mask or scale shows."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

WINDOW = 5  # tokens that a sliding layer sees, itself included
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": WINDOW},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": WINDOW},  # capped scores
    "gemma3_text": {"head_dim": 8, "sliding_window": WINDOW, "layer_types": MIXED},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},  # learned positions
    "gpt_neo": {  # its own attention, whose mask has an end: padding counts in its context
        "num_layers": 3,
        "attention_types": [[["global", "local", "global"], 1]],
        "num_heads": 4,
        "window_size": WINDOW,
        "max_position_embeddings": 128,
    },
    "gpt_oss": {"num_local_experts": 4, "head_dim": 8, "sliding_window": WINDOW},  # sinks
}


def random_model(family: str, **changes: Any) -> PreTrainedModel:
    """Its context is 64 tokens or more, its vocabulary 60, EOS 1 and padding 0."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SHAPE | FAMILIES[family] | changes)
    return AutoModelForCausalLM.from_config(config).eval()


def adapted(
    model: PreTrainedModel | None = None, names: tuple[str, ...] = ("default",), **settings: Any
) -> PeftModel:
    """`model`, a small Llama if none is given, with LoRA adapters of these names that are not zero."""
    values = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear"} | settings
    torch.manual_seed(2)
    first, *others = names
    tuned = get_peft_model(
        model or random_model("llama"), LoraConfig(task_type="CAUSAL_LM", **values), adapter_name=first
    )
    for name in others:
        tuned.add_adapter(name, LoraConfig(task_type="CAUSAL_LM", **values))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return tuned.eval()
