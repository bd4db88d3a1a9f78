"""`align reward score`: every row of a file gets a score, a part at a time; what a kill leaves is gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from alignment.console import note, progress_bar
from alignment.errors import AlignmentError
from alignment.files import write_json
from alignment.preferences import is_messages
from alignment.prompts import json_rows, parquet_rows
from alignment.scorers import reward_folder

CHUNK = 2048  # rows sorted by length together, and kept together


def score_file(model: str, file: Path, out: Path) -> dict[str, Any]:
    """Adds `score` (raw) to each row of a JSONL or Parquet file and writes JSONL to `out`; of a model with several
    members also `disagreement`, their standard deviation.

    A row has `messages`, or `prompt` and `completion`. Until the last row is scored the rows lie in `out`.partial;
    the same call goes on from there. Raises AlignmentError naming the first row that cannot be scored.
    """
    from reward.learned import LearnedScorer

    folder = reward_folder(model)
    if not file.is_file():
        raise AlignmentError(f"no file {file}")
    partial = Partial(out, {"model": folder, "file": str(file.resolve()), "bytes": file.stat().st_size})
    done = partial.begin()
    if done:
        note(f"score: going on after {done} rows that were scored before")
    scorer = LearnedScorer(folder)
    rows = islice(numbered_rows(file), done, None)
    with progress_bar("scoring", None) as advance:
        while chunk := list(islice(rows, CHUNK)):
            conversations = [conversation(row, f"{file}, row {number}") for number, row in chunk]
            opinions = scorer.token_opinions(scorer.tokens(conversations), advance)
            partial.add([row | scores_of(each) for (_, row), each in zip(chunk, opinions, strict=True)])
    return partial.finish()


def scores_of(opinions: Any) -> dict[str, float]:
    """opinions: (members,)"""
    several = {"disagreement": float(opinions.std())} if len(opinions) > 1 else {}
    return {"score": float(opinions.mean()), **several}


class Partial:
    """The rows scored so far, in whole lines, and beside them what they were scored from."""

    def __init__(self, out: Path, origin: dict[str, Any]) -> None:
        self.out, self.origin = out, origin
        self.rows = out.with_name(f"{out.name}.partial")
        self.record = out.with_name(f"{out.name}.partial.json")

    def begin(self) -> int:
        """How many rows are there already of the same origin; those of another are forgotten."""
        before = json.loads(self.record.read_text(encoding="utf-8")) if self.record.exists() else None
        if before == self.origin and self.rows.exists():
            whole = self.rows.read_bytes().rpartition(b"\n")
            if whole[2]:  # torn by a kill
                self.rows.write_bytes(whole[0] + whole[1])
            return whole[0].count(b"\n") + bool(whole[1])
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.rows.unlink(missing_ok=True)
        write_json(self.record, self.origin)
        return 0

    def add(self, rows: list[dict[str, Any]]) -> None:
        try:
            with self.rows.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise AlignmentError(
                f"cannot write {self.rows}: {error.strerror}; free some space, and the same command goes on"
            ) from error

    def finish(self) -> dict[str, Any]:
        """Give the rows their name; their figures. Raises AlignmentError if there are none."""
        if not self.rows.exists():
            self.record.unlink(missing_ok=True)
            raise AlignmentError(
                f"{self.origin['file']} is empty: it needs rows with `messages`, or `prompt` and `completion`"
            )
        with self.rows.open(encoding="utf-8") as lines:
            scores = [json.loads(line)["score"] for line in lines]
        os.replace(self.rows, self.out)
        self.record.unlink(missing_ok=True)
        return {
            "rows": len(scores),
            "mean": sum(scores) / len(scores),
            "lowest": min(scores),
            "highest": max(scores),
        }


def numbered_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, row) of a JSONL or Parquet file, read as they are asked for; blank lines have no number."""
    return enumerate(parquet_rows(file) if file.suffix == ".parquet" else json_rows(file), 1)


def conversation(row: dict[str, Any], place: str) -> list[dict[str, str]]:
    """The prompt and the answer of a row, as messages; texts stand for a user's and the assistant's message."""
    if is_messages(row.get("messages")):
        return list(row["messages"])
    prompt, completion = (
        as_messages(row.get("prompt"), "user"),
        as_messages(row.get("completion"), "assistant"),
    )
    if not prompt or not completion:
        raise AlignmentError(f"{place}: it needs `messages`, or `prompt` and `completion`")
    return prompt + completion


def as_messages(value: Any, role: str) -> list[dict[str, str]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return list(value) if is_messages(value) else []
