"""Reads rows one by one, and writes those that stay to one file and those that leave, with the reason, to another."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from rich.markup import escape
from rich.table import Column, Table

from alignment.data_cleaning.contamination import Evaluation
from alignment.data_cleaning.duplicates import Place
from alignment.data_cleaning.rules import (
    REASONS,
    UNREADABLE,
    CleaningRules,
    Examiner,
    Fault,
    asked_and_answered,
)
from alignment.errors import AlignmentError, ConfigError
from labeling.errors import LabelingError
from labeling.importers.load import SAMPLE, State, to_item
from labeling.importers.read import Raw, read_rows
from labeling.importers.recognise import recognise
from labeling.importers.records import Item, Unfit


@dataclass
class CleaningReport:
    """What became of the rows. Of every file: how many stayed ("kept") and left, by reason."""

    out: Path
    rejects: Path
    files: dict[str, Counter[str]] = field(default_factory=dict)
    evaluation_rows: int = 0
    evaluation_unreadable: int = 0

    def total(self, outcome: str) -> int:
        return sum(counts[outcome] for counts in self.files.values())

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": sum(counts.total() for counts in self.files.values()),
            "kept": self.total("kept"),
            "left_out": {reason: self.total(reason) for reason in REASONS if self.total(reason)},
            "files": {
                file: {
                    "rows": counts.total(),
                    **{name: counts[name] for name in ("kept", *REASONS) if counts[name]},
                }
                for file, counts in self.files.items()
            },
            "evaluation_rows": self.evaluation_rows,
            "evaluation_unreadable": self.evaluation_unreadable,
            "out": str(self.out),
            "rejects": str(self.rejects),
        }

    def as_table(self) -> Table:
        """Files down, outcomes across."""
        shown = ["kept", *(reason for reason in REASONS if self.total(reason))]
        table = Table(Column("file", overflow="fold"), "rows", *shown)
        for column in table.columns[1:]:
            column.justify = "right"
        for file, counts in self.files.items():
            table.add_row(escape(file), str(counts.total()), *(str(counts[name]) for name in shown))
        if len(self.files) > 1:
            rows = sum(counts.total() for counts in self.files.values())
            table.add_section()
            table.add_row("all", str(rows), *(str(self.total(name)) for name in shown))
        return table


def clean_files(
    files: Sequence[str],
    out: Path,
    rules: CleaningRules,
    *,
    against: Sequence[str] = (),
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> CleaningReport:
    """Write the rows of `files` that keep `rules` to `out` as they are, in order, and the others beside it.

    files: in any format that `align data import` knows, each by itself. against: evaluation files, whose texts must
    not be trained on. The rejects are JSON lines {file, row, reason, ..., raw}. Both files appear only when all
    is done. Rows are never held in memory; what is kept of them is said at `Seen`.

    Raises AlignmentError or LabelingError if a file cannot be read or written; ConfigError if `out` is among them.
    """
    rejects = out.with_name(f"{out.name.removesuffix('.jsonl')}.rejects.jsonl")
    check_paths([*files, *against], out, rejects, overwrite=overwrite)
    report = CleaningReport(out, rejects)
    evaluation = read_evaluation(against, report) if against else None
    examiner = Examiner(rules, evaluation)
    with ExitStack() as stack:
        kept, left = stack.enter_context(whole_file(out)), stack.enter_context(whole_file(rejects))
        for file in files:
            counts = report.files.setdefault(file, Counter())
            for raw, item in items(file):
                place = Place(file, raw.number)
                fault = examiner.fault(item, place) if not isinstance(item, Fault) else item
                if fault:
                    was = raw.text if raw.row is None else raw.row
                    write(left, {**vars(place), "reason": fault.reason, **fault.details, "raw": was})
                else:
                    write(kept, raw.row)
                counts[fault.reason if fault else "kept"] += 1
                progress(1)
    return report


def items(file: str) -> Iterator[tuple[Raw, Item | Fault]]:
    """Every row of `file` with what it means, or why it means nothing."""
    rows = read_rows(file)
    first = list(islice(rows, SAMPLE))
    if not first:
        raise AlignmentError(f"{file} holds no rows")
    sample = [raw.row for raw in first if raw.row is not None]
    if not sample:
        raise AlignmentError(f"{file} cannot be read: {first[0].reason} (row {first[0].number})")
    form, _ = recognise(sample, file)
    state = State(form, annotator=0)
    for raw in chain(first, rows):
        try:
            yield raw, to_item(raw, state)
        except (Unfit, LabelingError) as error:
            yield raw, Fault(UNREADABLE, {"why": str(error)})


def read_evaluation(files: Sequence[str], report: CleaningReport) -> Evaluation:
    def rows() -> Iterator[tuple[Place, Sequence[str]]]:
        for file in files:
            for raw, item in items(file):
                report.evaluation_rows += 1
                if isinstance(item, Fault):
                    report.evaluation_unreadable += 1
                else:
                    yield Place(file, raw.number), asked_and_answered(item)

    return Evaluation(rows())


def check_paths(read: Sequence[str], out: Path, rejects: Path, *, overwrite: bool) -> None:
    for path in (out, rejects):
        if path.resolve() in [Path(file).resolve() for file in read]:
            raise ConfigError(f"{path} is read and would be written: choose another --out")
    if out.exists() and not overwrite:
        raise AlignmentError(f"{out} already exists: choose another --out, or replace it with --overwrite")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """A file aside to write, which becomes `path` only when the block ends without an error.

    Leftovers of killed runs are removed.
    """
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink()
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w", encoding="utf-8", errors="backslashreplace") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise AlignmentError(
            f"cannot write {path}: {error.strerror}; free some space or choose another place"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def write(stream: IO[str], row: Any) -> None:
    stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
