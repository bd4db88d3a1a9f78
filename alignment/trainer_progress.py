"""What runs on transformers' Trainer shows its progress and writes its metrics as every other run does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import TrainOutput

from alignment.errors import AlignmentError
from alignment.runs import RunFolder
from alignment.trainer_resume import STATE

SHOWN = ("loss", "accuracy", "rewards/accuracies", "rewards/margins")


def quiet_arguments() -> dict[str, Any]:
    """Keyword arguments for any TRL config: nothing printed, reported or pushed; CPU runs in plain float32.

    TRL turns bf16 and gradient checkpointing on by default; both slow a CPU down.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    return {
        "report_to": "none",
        "disable_tqdm": True,
        "push_to_hub": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": on_gpu,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "gradient_checkpointing": on_gpu,
    }


class RunProgress(TrainerCallback):
    """A bar over the optimizer steps; logged rows go to the run folder, times apart from metrics.

    Use it as a context, so that the bar is closed on errors too:
    `with RunProgress(run, "sft") as progress: ...; trainer.add_callback(progress); trainer.train()`.
    Remove transformers' own PrinterCallback, or it prints every row.
    """

    def __init__(self, run: RunFolder, what: str) -> None:
        self.run = run
        self.what = what
        self.bar = ExitStack()
        self.advance: Callable[..., None] | None = None
        self.shown: dict[str, float] = {}
        # of a run that is resumed, what comes after its last checkpoint may be logged already
        rows = run.rows()
        self.latest = [row for row in rows if row.get("step") == rows[-1].get("step")]

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        from alignment.console import progress_bar

        self.advance = self.bar.enter_context(progress_bar(self.what, state.max_steps))
        self.advance(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.advance:
            self.advance(1, **self.shown)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        self.shown = {k.rpartition("/")[2]: logs[k] for k in SHOWN if k in logs} or self.shown
        times, metrics = split_times(logs)
        row = {"step": state.global_step, **metrics}
        if metrics.keys() - {"epoch"} and row not in self.latest:
            self.run.log(row)
        if times:
            self.run.log({"step": state.global_step, **times}, "timings.jsonl")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.bar.close()


def train_with_progress(trainer: Trainer, run: RunFolder, what: str, checkpoint: Path | None) -> TrainOutput:
    """Train to the end, from `checkpoint` if there is one. Raises AlignmentError where the disk fails."""
    with RunProgress(run, what) as progress:
        trainer.add_callback(progress)
        state = TrainerState.load_from_json(str(checkpoint / STATE)) if checkpoint else TrainerState()
        if checkpoint and state.global_step >= state.max_steps:
            # killed between its last step and its end: transformers would train for one step more
            trainer._load_from_checkpoint(str(checkpoint))
            trainer.state = state
            return TrainOutput(state.global_step, 0.0, {})
        try:
            return trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except OSError as error:
            raise AlignmentError(
                f"{error.strerror or error}: the last whole checkpoint in {run.checkpoints} is untouched; "
                "mend the cause and continue with --resume"
            ) from error


def split_times(logs: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """(what differs between two equal runs, what does not) of a Trainer's logged row."""
    times = {k: v for k, v in logs.items() if k.endswith(("_runtime", "_per_second"))}
    restarting = {"total_flos", "num_tokens", "eval_num_tokens", "train_loss"}  # over this process only
    return times, {k: v for k, v in logs.items() if k not in times and k not in restarting}
