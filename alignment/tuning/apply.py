"""Turning `TuningConfig` into a model whose trainable weights are the chosen ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from alignment.errors import AlignmentError
from alignment.models import Dtype
from alignment.tuning.config import TuningConfig

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

TaskType = Literal["CAUSAL_LM", "SEQ_CLS"]
LAYER = re.compile(r"\.layers\.(\d+)\.")  # where decoders of this stack keep their layers


def peft_config(tuning: TuningConfig, task_type: TaskType, model: torch.nn.Module) -> LoraConfig | None:
    """PEFT's settings for `tuning` of `model`, None for full tuning.

    Dropout is 0: a policy must equal itself. A reward model's score head is trained and saved
    whole beside the adapters.
    """
    from peft import LoraConfig, TaskType

    if tuning.method == "full":
        return None
    return LoraConfig(
        task_type=TaskType(task_type),
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=0.0,
        target_modules=tuning.target_modules if tuning.layers is None else upper_modules(tuning, model),
        modules_to_save=["score"] if task_type == "SEQ_CLS" else None,
    )


def upper_modules(tuning: TuningConfig, model: torch.nn.Module) -> list[str]:
    """The linear layers, of those that `tuning` names, in the last `tuning.layers` layers of `model`.

    Raises AlignmentError if there are none, or fewer layers than that.
    """
    from torch.nn import Linear

    places = [(name, found) for name, module in model.named_modules() if (found := LAYER.search(name))]
    linear = {
        name.removesuffix(".base_layer")  # of a model that has adapters already
        for name, module in model.named_modules()
        if isinstance(module, Linear) and ".lora_" not in name
    }
    depth = 1 + max((int(found[1]) for _, found in places), default=-1)
    wanted = None if isinstance(tuning.target_modules, str) else set(tuning.target_modules)
    chosen = [
        name
        for name, found in places
        if name in linear
        and int(found[1]) >= depth - (tuning.layers or depth)
        and (wanted is None or name.rpartition(".")[2] in wanted)
    ]
    if not chosen or (tuning.layers or 0) > depth:
        raise AlignmentError(f"tuning.layers={tuning.layers} does not fit this model of {depth} layers")
    return chosen


def apply_tuning(model: Any, tuning: TuningConfig, task_type: TaskType) -> Any:
    """The model to train: `model` itself with every weight free (full), or wrapped in a PeftModel.

    Raises AlignmentError if `target_modules` names no layer of the model, or if full tuning is asked of
    a 4-bit model.
    """
    config = peft_config(tuning, task_type, model)
    if config is None:
        if getattr(model, "is_loaded_in_4bit", False):
            raise AlignmentError("4-bit weights cannot be tuned in full: use tuning.method=qlora")
        return model.requires_grad_(True)
    from peft import get_peft_model

    try:
        return get_peft_model(model, config)
    except ValueError as error:
        line = " ".join(str(error).split())
        raise AlignmentError(
            f"tuning.target_modules={tuning.target_modules!r} does not fit this model: {line}"
        ) from error


def continue_as_reward(model: Any, adapter: str) -> Any:
    """`model`, a score head on the base of the policy adapter in folder `adapter`, wrapped in those adapters.

    They and the head go on learning, so that a reward model can start from an adapter-tuned policy and
    still share the policy's base. Raises AlignmentError if the adapter is no LoRA or touches the old head.
    """
    from peft import LoraConfig, PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict
    from peft import TaskType as PeftTask

    config = PeftConfig.from_pretrained(adapter)
    if not isinstance(config, LoraConfig):
        raise AlignmentError(f"{adapter} is no LoRA adapter: start the reward model from a whole model")
    config.task_type, config.modules_to_save, config.inference_mode = PeftTask.SEQ_CLS, ["score"], False
    wrapped = get_peft_model(model, config)
    weights = load_peft_weights(adapter, device="cpu")
    weights["base_model.model.score.weight"] = model.score.weight.detach().clone()
    outcome = set_peft_model_state_dict(wrapped, weights)
    if outcome.unexpected_keys:
        raise AlignmentError(
            f"the adapter {adapter} tunes {outcome.unexpected_keys[0]}, which a reward model does not have: "
            "start from a whole model"
        )
    return wrapped


def training_dtype(dtype: Dtype, tuning: TuningConfig) -> Dtype:
    """What "auto" means where weights are trained: float32 for full tuning, since small updates vanish in
    bfloat16 weights (mixed precision still computes in bfloat16 on a GPU); bfloat16 around 4-bit layers."""
    if dtype != "auto" or tuning.method == "lora":
        return dtype
    return "float32" if tuning.method == "full" else "bfloat16"


def trainable_share(model: torch.nn.Module) -> float:
    """The share (0..1) of the model's weights that training changes. 4-bit weights count two a byte."""
    trained = total = 0
    for weight in model.parameters():
        count = weight.numel() * (2 if type(weight).__name__ == "Params4bit" else 1)
        total += count
        trained += count if weight.requires_grad else 0
    return trained / total
