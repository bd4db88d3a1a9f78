"""What a method needs of transformers' Trainer while it trains: rates, pruning, weights that PEFT does not keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment.console import note
from alignment.errors import AlignmentError
from alignment.tuning.apply import trainable_share
from alignment.tuning.config import TuningConfig
from alignment.tuning.rates import differ, optimizer_for

FEWEST_STEPS = 10  # of AdaLoRA: one before it prunes, six in which it does, three after
PRUNING, ENCODER = "adalora.safetensors", "prompt_encoder.safetensors"


def prepare(trainer: Trainer, tuning: TuningConfig, what: str) -> None:
    """Make `trainer`, whose model is tuned by `tuning`, ready for its first step, and say what is trained."""
    note(f"{what}: tuning.method={tuning.method} trains {trainable_share(trainer.model):.2%} of the weights")
    if differ(tuning):
        trainer.optimizer = optimizer_for(trainer.model, tuning, trainer.args.learning_rate)
    if tuning.method == "adalora":
        trainer.add_callback(AdaLoraPruning())
    if tuning.method in ("prefix", "p_tuning"):
        trainer.add_callback(KeptEncoder())
        trainer._load_from_checkpoint = lambda checkpoint, model=None: load_encoder(  # type: ignore[method-assign]
            trainer.model, Path(checkpoint)
        )
    if tuning.method in ("prefix", "p_tuning_v2"):
        trainer.args.gradient_checkpointing = False  # a layer that is run again would find its prefix used up


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
            self.restore(model.base_model.rankallocator, checkpoint(args, state) / PRUNING)

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
        """Keeps what pruning has seen of each weight's importance."""
        allocator = model.base_model.rankallocator
        seen = {
            f"{kind}:{name}": value.contiguous()
            for kind in ("ipt", "exp_avg_ipt", "exp_avg_unc")
            for name, value in getattr(allocator, kind).items()
        }
        save_file(seen, checkpoint(args, state) / PRUNING)

    @staticmethod
    def restore(allocator: Any, file: Path) -> None:
        for key, value in load_file(file).items():
            kind, _, name = key.partition(":")
            getattr(allocator, kind)[name] = value


class KeptEncoder(TrainerCallback):
    """Keeps the network that makes the prompt beside each checkpoint: PEFT writes what it makes only."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        weights = model.prompt_encoder.state_dict()
        save_file(
            {name: weight.contiguous() for name, weight in weights.items()}, checkpoint(args, state) / ENCODER
        )


def load_encoder(model: Any, folder: Path) -> None:
    model.prompt_encoder.load_state_dict(load_file(folder / ENCODER))


def checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
