"""Turning `TuningConfig` into a model whose trainable weights are the chosen ones."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

from alignment.errors import AlignmentError
from alignment.models import Dtype
from alignment.tuning.config import TuningConfig
from alignment.tuning.methods import METHODS
from alignment.tuning.places import LAYER, in_last_layers
from alignment.tuning.settings import peft_settings

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

TaskType = Literal["CAUSAL_LM", "SEQ_CLS"]
__all__ = ["LAYER", "TaskType", "apply_tuning", "peft_config", "start_tuning", "trainable_share"]


def peft_config(tuning: TuningConfig, task_type: TaskType, model: torch.nn.Module) -> PeftConfig | None:
    """PEFT's settings for `tuning` of `model`, None for full tuning.

    A reward model's score head is trained and saved whole beside the adapters. Who wraps a model by these settings
    himself calls `start_tuning` on it. Raises AlignmentError where the model has no place for the method.
    """
    from peft import TaskType

    if tuning.method == "full":
        return None
    common = {
        "task_type": TaskType(task_type),
        "modules_to_save": ["score"] if task_type == "SEQ_CLS" else None,
    }
    return peft_settings(tuning, model, common)


def apply_tuning(model: Any, tuning: TuningConfig, task_type: TaskType) -> Any:
    """The model to train: `model` itself with its weights free (full), or wrapped in a PeftModel.

    Raises AlignmentError if the model has no place for the method or lacks the layers that `target_modules` names,
    or if full tuning is asked of a model whose weights are packed.
    """
    if task_type == "SEQ_CLS":
        require_stage(tuning, "reward")
    config = peft_config(tuning, task_type, model)
    if config is None:
        return free_weights(model, tuning)
    from peft import get_peft_model

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of merging and kernels, which nobody asked for here
            return start_tuning(get_peft_model(model, config), tuning)
    except (ValueError, NotImplementedError) as error:
        line = " ".join(str(error).split())
        raise AlignmentError(
            f"tuning.method={tuning.method} with target_modules={tuning.target_modules!r} "
            f"does not fit this model: {line}"
        ) from error


def start_tuning(model: Any, tuning: TuningConfig) -> Any:
    """`model`, just wrapped by `peft_config`, with its adapters where the method lets them start."""
    if tuning.method == "pissa":
        from alignment.tuning.pissa import start_from_singular_vectors

        start_from_singular_vectors(model)
    return model


def free_weights(model: Any, tuning: TuningConfig) -> Any:
    """`model` with every weight trained, or those from the last `tuning.layers` layers on up."""
    if getattr(model, "is_quantized", False):
        raise AlignmentError("4-bit and 8-bit weights cannot be tuned in full: use tuning.method=qlora")
    names = [name for name, _ in model.named_parameters()]
    kept = set(names if tuning.layers is None else in_last_layers(tuning, names, names))
    for name, weight in model.named_parameters():
        above = "embed" not in name and not LAYER.search(name)  # the last norm and the head
        weight.requires_grad_(name in kept or above)
    return model


def require_stage(tuning: TuningConfig, stage: str) -> None:
    """Raises AlignmentError if the method cannot be used by `align {stage}`."""
    if stage not in tuning.spec.stages:
        able = ", ".join(name for name, method in METHODS.items() if stage in method.stages)
        raise AlignmentError(
            f"tuning.method={tuning.method} cannot be used for {stage}: choose one of {able}"
        )


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
    bfloat16 weights (mixed precision still computes in bfloat16 on a GPU); bfloat16 around packed layers."""
    if dtype != "auto" or (tuning.method != "full" and not tuning.bits):
        return dtype
    return "bfloat16" if tuning.bits else "float32"


def trainable_share(model: torch.nn.Module) -> float:
    """The share (0..1) of the model's weights that training changes. 4-bit weights count two a byte."""
    trained = total = 0
    for weight in model.parameters():
        count = weight.numel() * (2 if type(weight).__name__ == "Params4bit" else 1)
        total += count
        trained += count if weight.requires_grad else 0
    return trained / total
