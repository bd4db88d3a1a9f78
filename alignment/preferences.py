"""Reading preference pairs: a snapshot folder, or one JSONL or Parquet file in a snapshot's columns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import AlignmentError
from alignment.prompts import read_rows
from labeling.hashing import prompt_hash
from labeling.snapshot import draw, read_snapshot

if TYPE_CHECKING:
    from datasets import Dataset

SIDES = ("prompt", "chosen", "rejected")
DEFAULTS: dict[str, Any] = {
    "p_chosen": 1.0,
    "margin": 0.0,
    "weight": 1.0,
    "source": "import",
    "annotator": "",
}
TEST_SHARE = 0.1


@dataclass(frozen=True)
class Preferences:
    """Pairs to train on, pairs held out, and what was left out: {"split", "row", "comparison_id", "reason"}."""

    train: Dataset
    test: Dataset
    snapshot: str | None
    rejects: list[dict[str, Any]]

    def __str__(self) -> str:
        return f"{len(self.train)} to train on, {len(self.test)} held out, {len(self.rejects)} left out"

    def left_out(self) -> Counter[str]:
        return Counter(row["reason"] for row in self.rejects)


def load_preferences(path: str | Path) -> Preferences:
    """The pairs at `path`; a single file is split by prompt, a tenth of the prompts held out.

    Missing label columns get the value of a sure, plain preference. A pair that cannot be learned from is
    left out with its reason. Raises AlignmentError if there is nothing to read, or nothing to train on is left.
    """
    from datasets import Dataset

    snapshot, splits = _read(Path(path))
    rejects: list[dict[str, Any]] = []
    kept: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for split, number, row in splits:
        reason = fault(row)
        if reason:
            rejects.append(
                {"split": split, "row": number, "comparison_id": row.get("comparison_id"), "reason": reason}
            )
            continue
        whole: dict[str, Any] = {name: plain(row[name]) for name in SIDES}
        whole |= {name: row.get(name, default) for name, default in DEFAULTS.items()}
        if row.get("aspects"):
            whole["aspects"] = row["aspects"]
        whole["comparison_id"] = row.get("comparison_id", number)
        whole["group"] = row.get("group") or prompt_hash(whole["prompt"])
        held_out = draw(whole["group"], 0) < TEST_SHARE if split is None else split == "test"
        kept["test" if held_out else "train"].append(whole)
    if not kept["train"]:
        reasons = ", ".join(
            f"{count} x {reason}" for reason, count in Counter(r["reason"] for r in rejects).items()
        )
        raise AlignmentError(f"{path} holds no pair to train on ({reasons or 'it is empty'})")
    test = Dataset.from_list(kept["test"]) if kept["test"] else Dataset.from_list(kept["train"]).select([])
    return Preferences(Dataset.from_list(kept["train"]), test, snapshot, rejects)


def _read(path: Path) -> tuple[str | None, Iterable[tuple[str | None, int, dict[str, Any]]]]:
    """A snapshot's hash (None for a file) and its rows as (split, number, row)."""
    if path.is_dir():
        tables = read_snapshot(path)
        return str(tables.manifest["hash"]), (
            (split, number, row)
            for split, table in (("train", tables.train), ("test", tables.test))
            for number, row in enumerate(table.to_pylist())
        )
    if not path.exists():
        raise AlignmentError(
            f"no preference data at {path}: take a snapshot with `align data snapshot` or correct the path"
        )
    rows = read_rows(path)
    if not rows:
        raise AlignmentError(f"{path} is empty: it needs rows with prompt, chosen and rejected")
    missing = [name for name in SIDES if not any(name in row for row in rows)]
    if missing:
        raise AlignmentError(
            f"{path} has no column {', '.join(missing)} (it has {', '.join(sorted(rows[0]))}): bring data in other "
            "formats into the store with `align data import`, then take a snapshot"
        )
    return None, ((None, number, row) for number, row in enumerate(rows))


def fault(row: dict[str, Any]) -> str | None:
    """Why a row cannot be learned from, or None."""
    for name in SIDES:
        if not is_messages(row.get(name)):
            return f"{name} is not a list of messages"
    for side in ("chosen", "rejected"):
        if not any(m["content"].strip() for m in row[side]):
            return f"{side} is empty"
    if plain(row["chosen"]) == plain(row["rejected"]):
        return "both sides are the same"
    if not within(row.get("p_chosen", 1.0), 0.5, 1.0):
        return "p_chosen is outside 0.5..1"
    for name in ("weight", "margin"):
        if not within(row.get(name, 0.0), 0.0, math.inf):
            return f"{name} is negative or not a number"
    return None


def is_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(m, dict) and all(isinstance(m.get(k), str) for k in ("role", "content")) for m in value
        )
    )


def within(value: Any, low: float, high: float) -> bool:
    """NaN and infinity are within nothing."""
    return isinstance(value, int | float) and math.isfinite(value) and low <= value <= high


def plain(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"role": m["role"], "content": m["content"]} for m in messages]
