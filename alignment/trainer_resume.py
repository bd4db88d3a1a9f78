"""Continuing a run of transformers' Trainer from its last whole checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path

from alignment.errors import AlignmentError
from alignment.runs import RunFolder


def last_checkpoint(run: RunFolder) -> Path | None:
    """The newest checkpoint that was written to its end, None if there is none.

    The Trainer writes `trainer_state.json` last, so one that was cut off by a kill has none, or not a whole one.
    """
    found = [
        (int(m[1]), p) for p in run.checkpoints.glob("checkpoint-*") if (m := re.search(r"-(\d+)$", p.name))
    ]
    for step, path in sorted(found, reverse=True):
        try:
            state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
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


def refuse_other_config(run: RunFolder, resolved: str) -> None:
    """Raises AlignmentError unless the run was begun with the very config that is `resolved` to YAML now."""
    saved = run.path / "config.yaml"
    if not saved.exists():
        raise AlignmentError(f"{run.path} is no run folder (no config.yaml in it): nothing to resume")
    if saved.read_text(encoding="utf-8") != resolved:
        raise AlignmentError(
            f"--resume continues {run.path} as it was begun, but the config differs from {saved}: "
            "undo the change, or choose another `run`"
        )
