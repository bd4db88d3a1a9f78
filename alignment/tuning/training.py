"""What a method needs of transformers' Trainer while it trains: rates, pruning, weights that PEFT does not keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment.console import note
from alignment.errors import AlignmentError
from alignment.tuning.apply import trainable_share
from alignment.tuning.config import TuningConfig
from alignment.tuning.rates import differ, optimizer_for

FEWEST_STEPS = 10  # of AdaLoRA: one before it prunes, six in which it does, three after
WHOLE, IMPORTANCE = "tuning_weights.safetensors", "adalora_importance.safetensors"
KEPT = ("adalora", "prefix", "p_tuning")  # of which PEFT writes less than training needs to go on


def prepare(trainer: Trainer, tuning: TuningConfig, what: str) -> None:
    """Make `trainer`, whose model is tuned by `tuning`, ready for its first step, and say what is trained."""
    note(f"{what}: tuning.method={tuning.method} trains {trainable_share(trainer.model):.2%} of the weights")
    if differ(tuning):
        trainer.optimizer = optimizer_for(trainer.model, tuning, trainer.args.learning_rate)
    if tuning.method in KEPT:
        trainer.add_callback(KeptWhole())
        trainer._load_from_checkpoint = lambda checkpoint, model=None: load_whole(  # type: ignore[method-assign]
            trainer.model, Path(checkpoint)
        )
    if tuning.method == "adalora":
        trainer.add_callback(AdaLoraPruning())
    if tuning.method in ("prefix", "p_tuning_v2"):
        trainer.args.gradient_checkpointing = False  # a layer that is run again would find its prefix used up
        leave_balance(trainer)


def leave_balance(trainer: Any) -> None:
    """Without the loss that keeps a mixture's experts in balance, which TRL adds in SFT: the routers are frozen, and it
    would count virtual tokens that they never see."""
    config = trainer.model.config.get_text_config()
    if getattr(config, "output_router_logits", False):
        trainer.aux_loss_enabled = config.output_router_logits = False


class KeptWhole(TrainerCallback):
    """Writes every trained weight beside a checkpoint: ranks that were pruned, the network that makes a prompt."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        save_file(trained_weights(model), checkpoint(args, state) / WHOLE)


def trained_weights(model: Any) -> dict[str, Tensor]:
    return {
        name: weight.detach().contiguous()
        for name, weight in model.named_parameters()
        if weight.requires_grad or ".ranknum." in name
    }


@torch.no_grad()
def load_whole(model: Any, folder: Path) -> None:
    weights = load_file(folder / WHOLE)
    for name, weight in trained_weights(model).items():
        weight.copy_(weights[name])


class AdaLoraPruning(TrainerCallback):
    """Prunes after each step (Zhang et al. 2023), on a schedule that fits the run; PEFT leaves both to its caller.

    A tenth of the steps at full rank, then pruning, and the last three tenths at the rank that is left.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        steps = state.max_steps
        if steps < FEWEST_STEPS:
            raise AlignmentError(
                f"tuning.method=adalora prunes over at least {FEWEST_STEPS} optimizer steps, and this run has "
                f"{steps}: train longer, lower batch_size, or use tuning.method=lora"
            )
        config = model.peft_config["default"]
        config.total_step, config.tinit, config.tfinal = steps, steps // 10, 3 * steps // 10
        config.deltaT = max(1, steps // 100)
        if state.global_step:
            folder = checkpoint(args, state)
            settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            config.rank_pattern = settings["rank_pattern"]
            for key, seen in load_file(folder / IMPORTANCE).items():
                kind, name = key.split(":", 1)
                getattr(model.base_model.rankallocator, kind)[name] = seen

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """The paper's pull towards orthogonal singular vectors, which PEFT adds to a loss that trainers do not use."""
        weight = model.peft_config["default"].orth_reg_weight
        vectors = [
            w if "lora_A" in n else w.T
            for n, w in model.named_parameters()
            if ".lora_A." in n or ".lora_B." in n
        ]
        with torch.enable_grad():
            distances = [
                torch.linalg.matrix_norm(v @ v.T - torch.eye(len(v), device=v.device)) for v in vectors
            ]
            (weight * torch.stack(distances).mean()).backward()

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        model.base_model.update_and_allocate(state.global_step + 1)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        allocator = model.base_model.rankallocator
        seen = {
            f"{kind}:{name}": value.contiguous()
            for kind in ("ipt", "exp_avg_ipt", "exp_avg_unc")
            for name, value in getattr(allocator, kind).items()
        }
        save_file(seen, checkpoint(args, state) / IMPORTANCE)


def checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
