"""What the reference says of every answer, computed once and kept on disk for the next run that would ask the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.files import write_json

if TYPE_CHECKING:
    from datasets import Dataset

Logps = list[list[float]]  # of the first and the second answer of each row, in nats
COLUMNS = ("prompt_ids", "first_ids", "second_ids")
SAID = ("first_reference", "second_reference")


def cache_key(rows: Dataset, *about: object) -> str:
    """A name for the reference's log-probabilities of `rows`: what they depend on, and nothing else, goes into it.

    The token ids say what the data, the chat template and the limits of length make of a row; about: the rest, such
    as a hash of the model's weights.
    """
    digest = hashlib.sha256(json.dumps([str(thing) for thing in about]).encode())
    for row in rows.select_columns(list(COLUMNS)):
        digest.update(json.dumps([row[name] for name in COLUMNS]).encode())
    return digest.hexdigest()[:32]


def kept(file: Path, count: int, compute: Callable[[], Logps], *, writes: bool = True) -> Logps:
    """The log-probabilities in `file`, or those of `compute`, which then are left there.

    writes: false for all but one of several processes.
    """
    if file.exists():
        found: Logps = json.loads(file.read_text(encoding="utf-8"))
        if len(found) == count:
            return found
    found = compute()
    if writes:
        write_json(file, found)
    return found


def with_reference(rows: Dataset, logps: Sequence[Sequence[float]]) -> Dataset:
    """Adds the columns first_reference and second_reference."""
    for name, values in zip(SAID, zip(*logps, strict=True), strict=True):
        rows = rows.add_column(name, list(values))
    return rows
