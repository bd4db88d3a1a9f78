"""What SFT watches besides its own loss: whether it still falls, and what the model forgets meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from alignment.console import note
from alignment.runs import RunFolder

if TYPE_CHECKING:
    from transformers import Trainer

HELD_OUT, GENERAL = "held_out", "general"  # names of the sets that are evaluated


class Patience(EarlyStoppingCallback):
    """Stops once the held-out loss has not fallen for so many checkpoints, those before a resume included."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        losses = logged(state, HELD_OUT)
        self.early_stopping_patience_counter = len(losses) - 1 - losses.index(min(losses)) if losses else 0


class Forgetting(TrainerCallback):
    """Watches the perplexity of general text, and says so once it has risen past `alarm` times what it was."""

    def __init__(self, alarm: float) -> None:
        self.alarm = alarm
        self.before: float | None = None
        self.latest = math.nan
        self.raised = False

    def begin(self, trainer: Trainer) -> None:
        """Measure the model as it is, before its first step."""
        self.before = perplexity(trainer, GENERAL)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A resumed run has seen what was logged before it was cut off."""
        self.raised = any(self.risen(math.exp(loss)) for loss in logged(state, GENERAL))

    def risen(self, found: float) -> bool:
        return self.before is not None and found > self.alarm * self.before

    def see(self, loss: float, step: int) -> None:
        self.latest = math.exp(loss)
        if not self.raised and self.risen(self.latest):
            self.raised = True
            note(
                f"sft: forgetting: at step {step} the perplexity of `general` is {self.latest:.2f}, and was "
                f"{self.before:.2f}: lower learning_rate or epochs, train adapters, or mix general data in"
            )

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        loss = (metrics or {}).get(f"eval_{GENERAL}_loss")
        if loss is not None:
            self.see(loss, state.global_step)

    def figures(self) -> dict[str, Any]:
        return {
            "general_perplexity_before": self.before,
            "general_perplexity": self.latest,
            "forgetting_alarm": self.raised,
        }


class TaskForgetting(TrainerCallback):
    """Measures a suite of tasks at every checkpoint, and says so once fewer are done than before by over `alarm`."""

    def __init__(self, measure: Callable[[], dict[str, float]], run: RunFolder, alarm: float) -> None:
        """measure: "accuracy" and its parts, of the model as it is; alarm: a share of all tasks."""
        self.measure = measure
        self.run = run
        self.alarm = alarm
        self.before: dict[str, float] = {}
        self.latest: dict[str, float] = {}
        self.raised = False

    def begin(self) -> None:
        """Measure the model as it is, before its first step; a resumed run has seen what was logged before."""
        self.before = self.measure()
        self.raised = any(
            self.fallen(row["tasks_accuracy"]) for row in self.run.rows() if "tasks_accuracy" in row
        )

    def fallen(self, accuracy: float) -> bool:
        return accuracy < self.before["accuracy"] - self.alarm

    def see(self, step: int) -> None:
        self.latest = self.measure()
        self.run.log({"step": step, **{f"tasks_{name}": share for name, share in self.latest.items()}})
        if not self.raised and self.fallen(self.latest["accuracy"]):
            self.raised = True
            note(
                f"sft: forgetting: at step {step} the model does {self.latest['accuracy']:.1%} of `general_tasks`, and "
                f"did {self.before['accuracy']:.1%}: lower learning_rate or epochs, train adapters, or mix general "
                "data in"
            )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step < state.max_steps:  # the last is measured once the best is back
            self.see(state.global_step)

    def figures(self) -> dict[str, Any]:
        return {"tasks_before": self.before, "tasks": self.latest, "tasks_alarm": self.raised}


def logged(state: TrainerState, name: str) -> list[float]:
    """The losses of the evaluation set `name` so far, in order."""
    key = f"eval_{name}_loss"
    return [row[key] for row in state.log_history if key in row]


def perplexity(trainer: Trainer, name: str) -> float:
    """Of the answers in the evaluation set `name`."""
    found = trainer.evaluate(trainer.eval_dataset[name], metric_key_prefix=f"eval_{name}")
    return math.exp(found[f"eval_{name}_loss"])
