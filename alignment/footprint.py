"""What a run will hold in memory, estimated from the model's config alone: no weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignment.models import Dtype, base_of, from_pretrained, resolve, torch_dtype
from alignment.tuning.config import TuningConfig

GIB = 2**30


@dataclass(frozen=True)
class Footprint:
    """Counts of weights, and bytes of what training holds."""

    parameters: int
    trainable: int
    weight_bytes: int
    training_bytes: int  # gradients and Adam's two moments, in float32
    activation_bytes: int  # of one microbatch

    @property
    def trainable_share(self) -> float:
        return self.trainable / self.parameters

    def plan(self, copies: int = 1, trained: int = 1) -> dict[str, str]:
        """Lines for --dry-run, for `copies` of the weights and `trained` sets of trained ones."""
        parts = {
            f"{copies} x weights": copies * self.weight_bytes,
            "gradients and optimizer": trained * self.training_bytes,
            "activations": self.activation_bytes,
        }
        detail = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
        return {
            "parameters": f"{self.parameters:,}, of which trained {self.trainable:,} ({self.trainable_share:.2%})",
            "memory, roughly": f"{sum(parts.values()) / GIB:.2f} GiB ({detail})",
        }


def footprint(
    path: str, dtype: Dtype, tuning: TuningConfig, *, rows: int, tokens: int, checkpointed: bool = False
) -> Footprint:
    """For a microbatch of `rows` sequences of `tokens` tokens. Raises AlignmentError if there is no such model.

    Activations: 34 d + 5 heads t bytes a token and layer at 16 bits (Korthikanti et al. 2022, without
    the attention matrix, which SDPA does not keep), plus three float32 copies of the logits. If layers are
    `checkpointed`, those of one layer and what enters the others.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from alignment.tuning.apply import apply_tuning

    config: Any = from_pretrained(AutoConfig, base_of(resolve(path)))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = model.num_parameters()
    bytes_each = torch_dtype(dtype).itemsize
    weights = sum(
        int(p.numel() * (0.56 if tuning.method == "qlora" and is_linear_weight(name, p) else bytes_each))
        for name, p in model.named_parameters()
    )
    tuned = apply_tuning(model, tuning, "CAUSAL_LM")
    trainable = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    text = config.get_text_config()
    layers = text.num_hidden_layers + 17 if checkpointed else 17 * text.num_hidden_layers
    activations = rows * tokens * (layers * bytes_each * text.hidden_size + 12 * text.vocab_size)
    return Footprint(parameters, trainable, weights, 12 * trainable, activations)


def is_linear_weight(name: str, parameter: Any) -> bool:
    """What bitsandbytes turns into 4 bits (with its scales about 4.5): the matrices of the layers, not the head."""
    return parameter.ndim == 2 and ".layers." in name
