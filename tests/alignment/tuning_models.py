"""Small models of three families that share a tokenizer, what they say, and a few steps of learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": None,
}
IDS = torch.arange(64).view(4, 16)


def family_of(method: str) -> str:
    """A family that can be tuned by the method."""
    return "mixtral" if method == "moe" else "llama"


def new_model(family: str, vocabulary: int = 64, **settings: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SHAPE | FAMILIES[family] | {"vocab_size": vocabulary} | settings)
    return AutoModelForCausalLM.from_config(config).eval()


def write_model(family: str, tokenizer_of: Path, folder: Path) -> Path:
    """A model folder with the tokenizer of another."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    new_model(family, len(tokenizer), **ends).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def outputs(model: Any) -> Tensor:
    return model(input_ids=IDS).logits


def learn(model: Any, steps: int = 8, rate: float = 1e-2) -> list[float]:
    """Losses of some steps of AdamW on a fixed batch."""
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], rate, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        logits = model(input_ids=IDS).logits
        if logits.ndim == 2:  # of a reward model
            loss = torch.nn.functional.softplus(-logits.diff(dim=0)).mean()
        else:
            loss = torch.nn.functional.cross_entropy(logits[:, -16:-1].flatten(0, 1), IDS[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses
