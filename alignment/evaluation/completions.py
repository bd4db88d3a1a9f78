"""Completions as they are sampled, kept in the run folder: an evaluation that was cut off goes on after them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from alignment.models import weights_stamp
from alignment.prompts import EncodedPrompt
from alignment.runs import RunFolder
from rollout.types import Completion


def file_for(of: str, policy: str, asked: Sequence[EncodedPrompt]) -> str:
    """Where `policy`'s completions for these prompts are kept: other weights or prompts have another file."""
    about = [weights_stamp(policy), [prompt.ids for prompt in asked]]
    return f"completions.{of}.{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}.jsonl"


def kept(run: RunFolder, file: str, batch_size: int) -> list[Completion]:
    """Those of whole batches: of a part, rounding would differ. The file is cut to them, and can be written on."""
    if not (run.path / file).exists():
        return []
    rows = run.rows(file)
    whole = len(rows) - len(rows) % batch_size
    run.keep_rows(whole, file)
    return [
        Completion(
            tuple(row["token_ids"]), tuple(row["logprobs"]), row["finish_reason"], row["policy_version"]
        )
        for row in rows[:whole]
    ]


def keep(run: RunFolder, file: str, completions: Sequence[Completion]) -> None:
    for completion in completions:
        run.log(asdict(completion), file)
