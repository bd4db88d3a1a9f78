"""Continuing a run of transformers' Trainer from its last whole checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic import BaseModel

from alignment.console import note
from alignment.runs import RunFolder

STATE = "trainer_state.json"  # of a checkpoint, written last


def open_run(
    path: Path, config: BaseModel, command: str, *, overwrite: bool, resume: bool
) -> tuple[RunFolder, Path | None]:
    """A new run folder, or with `resume` the one at `path` rewound to its last whole checkpoint, and that.

    Raises AlignmentError if the folder cannot be used.
    """
    if not (resume and path.exists()):
        return RunFolder.create(path, config, overwrite=overwrite), None
    run = RunFolder.resume(path, config)
    checkpoint = last_checkpoint(run)
    rewind(run, checkpoint)
    note(
        f"{command}: "
        + (f"continuing from {checkpoint}" if checkpoint else "no checkpoint yet: from the beginning")
    )
    return run, checkpoint


def last_checkpoint(run: RunFolder) -> Path | None:
    """The newest checkpoint that was written to its end, None if there is none.

    The Trainer writes STATE last, so one that was cut off by a kill has none, or not a whole one.
    """
    found = [
        (int(m[1]), p) for p in run.checkpoints.glob("checkpoint-*") if (m := re.search(r"-(\d+)$", p.name))
    ]
    for step, path in sorted(found, reverse=True):
        try:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if state.get("global_step") == step:
            return path
    return None


def rewind(run: RunFolder, checkpoint: Path | None) -> None:
    """Forget the logged rows after `checkpoint`: the continued run writes them again."""
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    for file in ("metrics.jsonl", "timings.jsonl"):
        if (run.path / file).exists():
            run.keep_rows(sum(row.get("step", 0) <= step for row in run.rows(file)), file)
