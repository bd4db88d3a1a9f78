"""Snapshots: the labels of one moment as an immutable preference dataset, named by its content.

One row for each effective label (a ranking gives one for each pair), with the columns

    prompt, chosen, rejected   lists of {role, content}
    p_chosen                   0.5..1, the probability that chosen is better
    margin                     how much better, in log-odds; 0 if unknown
    weight                     how much the row counts
    source                     "human", "judge" or "import"; scripted annotators count as "human"
    annotator, comparison_id, group (hash of the prompt; a group is never cut between train and test)

How a label becomes a row is told in `labeling.rows`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from labeling.errors import LabelingError
from labeling.hashing import canonical_json, content_hash
from labeling.judge.trust.calibration import read_calibrations
from labeling.reads import comparison_page, pages, read_labels, select_comparisons
from labeling.rows import LABEL_RULE, Row, Tally, rows_of, why_left_out
from labeling.schema import Comparison
from labeling.store import Store
from labeling.views import LabelView

VERSION = 1
SPLITS = ("train", "test")
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
COLUMNS = pa.schema(
    [
        ("prompt", MESSAGES),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("p_chosen", pa.float64()),
        ("margin", pa.float64()),
        ("weight", pa.float64()),
        ("source", pa.string()),
        ("annotator", pa.string()),
        ("comparison_id", pa.int64()),
        ("group", pa.string()),
    ]
)


@dataclass(frozen=True)
class Snapshot:
    path: Path
    hash: str  # hex SHA-256 of the manifest, which holds the hashes of the rows
    counts: dict[str, Any]


@dataclass(frozen=True)
class SnapshotTables:
    manifest: dict[str, Any]
    train: pa.Table
    test: pa.Table


def take_snapshot(store: Store, folder: Path, *, test_share: float = 0.1, seed: int = 0) -> Snapshot:
    """Write the store's effective labels to `folder`/HASH/ as train.parquet, test.parquet and manifest.json.

    A split without rows has no file, since `datasets` cannot load an empty one.
    The same labels give the same hash and the same bytes; a folder of that hash that is there is left as it
    is. Nothing appears under its name before it is whole. The link folder/latest then names it.
    Raises LabelingError if there is no label to write, or if the folder cannot be written.
    """
    if not 0 <= test_share < 1:
        raise LabelingError(f"test_share must be at least 0 and below 1, not {test_share}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        aside = folder / f".partial-{uuid4().hex}"
        aside.mkdir()
        try:
            manifest = write_snapshot(store, aside, test_share, seed)
            path = settle(aside, folder / manifest["hash"][:16])
            name_latest(path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise LabelingError(
            f"cannot write a snapshot in {folder}: {error.strerror or error}; "
            "free some space or choose another folder"
        ) from error
    return Snapshot(path, manifest["hash"], manifest["counts"])


def name_latest(path: Path) -> None:
    """Let the link `latest` beside `path` name it, in one step."""
    aside = path.with_name(f".latest-{uuid4().hex}")
    aside.symlink_to(path.name)
    aside.replace(path.with_name("latest"))


def read_snapshot(path: Path, *, verify: bool = False) -> SnapshotTables:
    """A snapshot's manifest and tables. With `verify` every row is hashed again and compared.

    Raises LabelingError if `path` is not a whole snapshot, or is not what its hash says.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        train, test = (
            pq.read_table(path / f"{split}.parquet") if manifest["counts"][split] else COLUMNS.empty_table()
            for split in SPLITS
        )
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors are among these
        raise LabelingError(f"{path} is not a snapshot: {str(error).partition(chr(10))[0]}") from None
    if verify:
        named = {key: value for key, value in manifest.items() if key != "hash"}
        if manifest.get("hash") != content_hash(named):
            raise LabelingError(f"snapshot {path} was changed: its manifest does not match its hash")
        for split, table in zip(SPLITS, (train, test), strict=True):
            if manifest["rows_sha256"][split] != hash_rows(table):
                raise LabelingError(f"snapshot {path} was changed: {split}.parquet does not match its hash")
    return SnapshotTables(manifest, train, test)


def hash_rows(table: pa.Table) -> str:
    digest = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=500):
        for row in batch.to_pylist():
            digest.update(canonical_json(row) + b"\n")
    return digest.hexdigest()


def write_snapshot(store: Store, folder: Path, test_share: float, seed: int) -> dict[str, Any]:
    """Fill `folder` and return the manifest."""
    tally = Tally(SPLITS)
    parts = {split: Part(folder / f"{split}.parquet") for split in SPLITS}
    try:
        for row in read_rows(store, tally):
            split = "test" if draw(row["group"], seed) < test_share else "train"
            parts[split].add(row)
            tally.count(split, row)
    finally:
        for part in parts.values():
            part.close()
    for part in parts.values():
        if not part.rows:
            part.path.unlink()
    if not sum(part.rows for part in parts.values()):
        counted = ", ".join(f"{count} {why}" for why, count in tally.left_out.items() if count)
        left = f" (left out: {counted})" if counted else ""
        raise LabelingError(f"nothing to snapshot: the store holds no label that prefers a side{left}")
    used = {name: calibration.as_meta() for name, calibration in tally.calibrations.items()}
    manifest: dict[str, Any] = {
        "version": VERSION,
        "settings": {"test_share": test_share, "seed": seed},
        "rows_sha256": {split: part.digest.hexdigest() for split, part in parts.items()},
        "counts": tally.figures(),
        "label_rule": LABEL_RULE,
        **({"calibrations": used} if used else {}),
    }
    manifest["hash"] = content_hash(manifest)
    text = json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def draw(group: str, seed: int) -> float:
    """A number in [0, 1) that depends on the group and the seed alone."""
    return int(hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()[:13], 16) / 16**13


class Part:
    """One split being written: rows are hashed one by one and leave memory in groups."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self.rows = 0
        self._buffer: list[Row] = []
        self._writer = pq.ParquetWriter(path, COLUMNS, compression="zstd")

    def add(self, row: Row) -> None:
        self.digest.update(canonical_json(row) + b"\n")
        self.rows += 1
        self._buffer.append(row)
        if len(self._buffer) == 500:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._buffer:
            self._writer.write_table(pa.Table.from_pylist(self._buffer, schema=COLUMNS))
            self._buffer.clear()


def read_rows(store: Store, tally: Tally) -> Iterator[Row]:
    """The rows of every effective label that stands by comparison id, within one by annotator and then by time."""
    with store.snapshot() as connection:
        calibrations = read_calibrations(connection)
        labels = groupby(read_labels(connection), key=lambda label: label.comparison_id)
        for page in pages((key, sorted(group, key=by_annotator)) for key, group in labels):
            query = select_comparisons().where(Comparison.id.in_([key for key, _ in page]))
            views = {view.id: view for view in comparison_page(connection, query, len(page))}
            for comparison, group in page:
                decided = any(label.purpose == "adjudicate" for label in group)
                for label in group:
                    if why := why_left_out(label, decided):
                        tally.left_out[why] += 1
                        continue
                    calibration = calibrations.get(label.annotator_id)
                    if calibration:
                        tally.calibrations[label.annotator] = calibration
                    rows = rows_of(label, views[comparison], calibration)
                    tally.note(label, len(rows))
                    yield from rows


def by_annotator(label: LabelView) -> tuple[str, int]:
    return label.annotator, label.id


def settle(aside: Path, path: Path) -> Path:
    """Give a whole snapshot its name, unless one of that content has it already."""
    for file in aside.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    try:
        aside.rename(path)
    except OSError:
        if not (path / "manifest.json").exists():
            raise
    return path


def remove_leftovers(folder: Path) -> None:
    """What killed runs left aside more than a day ago."""
    for leftover in folder.glob(".partial-*"):
        if time.time() - leftover.stat().st_mtime > 86_400:
            shutil.rmtree(leftover, ignore_errors=True)
