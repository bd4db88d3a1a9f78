"""What a run will hold in memory, estimated from the model's config alone: no weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.models import Dtype, base_of, from_pretrained, resolve, torch_dtype
from alignment.tuning.config import TuningConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GIB = 2**30
FOUR_BITS, EIGHT_BITS = 0.56, 1.01  # bytes a weight, with its scales


@dataclass(frozen=True)
class Footprint:
    """Counts of weights, and bytes of what training holds."""

    parameters: int
    trainable: int
    weight_bytes: int
    training_bytes: int  # gradients and Adam's two moments, in float32
    activation_bytes: int  # of one microbatch, beyond these

    @property
    def trainable_share(self) -> float:
        return self.trainable / self.parameters

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.training_bytes + self.activation_bytes

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
    """For a microbatch of `rows` sequences of `tokens` tokens. Raises AlignmentError if there is no such model."""
    from transformers import AutoConfig

    config = from_pretrained(AutoConfig, base_of(resolve(path)))
    return footprint_of(config, dtype, tuning, rows=rows, tokens=tokens, checkpointed=checkpointed)


def footprint_of(
    config: PreTrainedConfig,
    dtype: Dtype,
    tuning: TuningConfig,
    *,
    rows: int,
    tokens: int,
    checkpointed: bool = False,
) -> Footprint:
    """The same for a model of this config. Activations are counted in a step on the meta device, or by a formula
    for models whose forward depends on what is in their tensors."""
    import torch
    from transformers import AutoModelForCausalLM

    from alignment.rehearsal import activation_bytes
    from alignment.tuning.apply import apply_tuning

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch_dtype(dtype))
        parameters = model.num_parameters()
        weights = int(sum(held_bytes(name, weight, tuning.bits) for name, weight in model.named_parameters()))
        stand_in = tuning if tuning.method != "boft" else tuning.model_copy(update={"method": "oft"})
        tuned = apply_tuning(model, stand_in, "CAUSAL_LM")  # BOFT needs real tensors to begin with
    trainable = sum(weight.numel() for weight in tuned.parameters() if weight.requires_grad)
    weights += 4 * (sum(weight.numel() for weight in tuned.parameters()) - parameters)  # adapters, in float32
    if tuning.method == "boft":
        weights += permutation_bytes(tuned)
    try:
        computing = tuned.to(
            torch_dtype(dtype)
        )  # mixed precision computes in it also where weights are float32
        activations = activation_bytes(computing, rows, tokens, checkpointed=checkpointed)
    except (RuntimeError, NotImplementedError):
        activations = rough_activations(config, torch_dtype(dtype).itemsize, rows * tokens, checkpointed)
        activations += expert_updates(tuned)
    return Footprint(parameters, trainable, weights, 12 * trainable, activations)


def held_bytes(name: str, weight: Any, bits: int | None) -> float:
    """What one weight takes: bitsandbytes packs the matrices of the layers, not the head."""
    if bits is None or weight.ndim != 2 or ".layers." not in name:
        return weight.numel() * weight.element_size()
    return weight.numel() * (FOUR_BITS if bits == 4 else EIGHT_BITS)


def permutation_bytes(model: Any) -> int:
    """BOFT keeps a permutation matrix of inputs by inputs, in float32, beside every weight."""
    return sum(4 * layer.in_features**2 for layer in model.modules() if hasattr(layer, "oft_R"))


def expert_updates(model: Any) -> int:
    """PEFT makes the update of stacked experts in full, and its sum with their weights, at every forward."""
    wrappers = (module for module in model.modules() if hasattr(module, "parameter_name"))
    return sum(2 * wrapper.get_param().nbytes for wrapper in wrappers)


def rough_activations(config: Any, bytes_each: int, tokens: int, checkpointed: bool) -> int:
    """34 d bytes a token and layer at 16 bits (Korthikanti et al. 2022, without the attention matrix, which SDPA does
    not keep), plus three float32 copies of the logits; if layers are checkpointed, those of one layer and what enters
    the others."""
    text = config.get_text_config()
    layers = text.num_hidden_layers + 17 if checkpointed else 17 * text.num_hidden_layers
    return tokens * (layers * bytes_each * text.hidden_size + 12 * text.vocab_size)
