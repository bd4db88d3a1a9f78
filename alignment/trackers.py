"""Experiment trackers: the same figures as in the run folder, for those who watch runs in TensorBoard or W&B."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import BaseModel

from alignment.errors import AlignmentError
from alignment.files import write_text
from alignment.runs import RunFolder

TrackerName = Literal["tensorboard", "wandb"]
Log = Callable[[int, Mapping[str, float]], None]  # the step, and figures by name


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Raises AlignmentError for a tracker that is not installed, with the command that installs it."""
    for name in names:
        if find_spec(name) is None:
            raise AlignmentError(
                f"track has {name}, which is not installed: pip install 'align[{name}]', or take it out"
            )


@contextmanager
def tracking(names: Sequence[TrackerName], run: RunFolder, config: BaseModel, step: int) -> Iterator[Log]:
    """Yields `log(step, figures)`. `step` is the one that a resumed run goes on after, 0 for a new run."""
    with ExitStack() as opened:
        logs: list[Log] = []
        if "tensorboard" in names:
            logs.append(opened.enter_context(tensorboard(run, step)))
        if "wandb" in names:
            logs.append(opened.enter_context(wandb(run, config)))

        def log(step: int, figures: Mapping[str, float]) -> None:
            for each in logs:
                each(step, figures)

        yield log


@contextmanager
def tensorboard(run: RunFolder, step: int) -> Iterator[Log]:
    """Event files in `tensorboard/` of the run folder; what an interrupted run wrote after `step` is hidden."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def log(step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # a killed run must not lack points from before its checkpoint

    try:
        yield log
    finally:
        writer.close()


@contextmanager
def wandb(run: RunFolder, config: BaseModel) -> Iterator[Log]:
    """A W&B run in `wandb/` of the run folder: offline, for `wandb sync`, unless WANDB_MODE says otherwise.

    A resumed run goes on under the same id. Whose account it is W&B knows from its own login; nothing is kept here.
    """
    import wandb as library

    place = run.path / "wandb_id"
    if not place.exists():
        write_text(place, secrets.token_hex(4))
    try:
        writer: Any = library.init(
            project=os.environ.get("WANDB_PROJECT", "align"),
            name=run.path.name,
            id=place.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(run.path),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=config.model_dump(mode="json"),
            settings=library.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
        )
    except library.Error as error:
        reason = " ".join(str(error).split())
        raise AlignmentError(f"W&B: {reason}; `wandb login`, or leave WANDB_MODE at offline") from error

    def log(step: int, figures: Mapping[str, float]) -> None:
        writer.log(dict(figures), step=step)

    try:
        yield log
    finally:
        writer.finish()
