"""What SFT watches besides its own loss: whether it still falls, and what the model forgets meanwhile."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignment.console import note

if TYPE_CHECKING:
    from transformers import Trainer

HELD_OUT, GENERAL = "held_out", "general"  # names of the sets that are evaluated


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

    def see(self, loss: float, step: int) -> None:
        self.latest = math.exp(loss)
        if self.before and not self.raised and self.latest > self.alarm * self.before:
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


def perplexity(trainer: Trainer, name: str) -> float:
    """Of the answers in the evaluation set `name`."""
    found = trainer.evaluate(trainer.eval_dataset[name], metric_key_prefix=f"eval_{name}")
    return math.exp(found[f"eval_{name}_loss"])
