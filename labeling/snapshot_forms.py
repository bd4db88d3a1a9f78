"""A snapshot in the form that another tool reads: Parquet as it is, JSON lines, or a Hugging Face dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq

from labeling.errors import LabelingError
from labeling.export import write_jsonl
from labeling.snapshot import SPLITS, Snapshot, take_snapshot
from labeling.store import Store

CARD = """---
configs:
- config_name: default
  data_files:
{files}
tags:
- preference
---

# Preferences

A snapshot of labels, named by its content: `{hash}`.

| split | rows |
|---|---|
{rows}

`prompt`, `chosen` and `rejected` are lists of messages; `p_chosen` is the probability that chosen is better,
`margin` how much better it is. {rule}.
"""


class SnapshotForm(StrEnum):
    parquet = "parquet"  # train.parquet, test.parquet
    jsonl = "jsonl"  # train.jsonl, test.jsonl
    hf = "hf"  # README.md and data/, which load_dataset reads and the hub shows


def export_snapshot(
    store: Store, folder: Path, form: SnapshotForm, *, test_share: float = 0.1, seed: int = 0
) -> Path:
    """Write a snapshot of the store's labels to `folder`/HASH (`folder`/HASH-jsonl, -hf); where it is.

    Each form holds the same rows and the manifest. What is there already is left as it is.
    Raises LabelingError if there is nothing to write, or if it cannot be written.
    """
    if form is SnapshotForm.parquet:
        return take_snapshot(store, folder, test_share=test_share, seed=seed).path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".partial-") as aside:
            taken = take_snapshot(store, Path(aside) / "taken", test_share=test_share, seed=seed)
            out = Path(aside) / "out"
            out.mkdir()
            FORMS[form](taken, out)
            shutil.copy(taken.path / "manifest.json", out)
            path = folder / f"{taken.path.name}-{form}"
            if not path.exists():
                out.rename(path)
    except OSError as error:
        raise LabelingError(f"cannot write a snapshot in {folder}: {error.strerror or error}") from error
    return path


def write_lines(taken: Snapshot, out: Path) -> None:
    for file in splits(taken):
        write_jsonl(out / f"{file.stem}.jsonl", rows(file))


def write_dataset(taken: Snapshot, out: Path) -> None:
    (out / "data").mkdir()
    for file in splits(taken):
        shutil.copy(file, out / "data")
    card = CARD.format(
        hash=taken.hash,
        files="\n".join(f"  - split: {file.stem}\n    path: data/{file.name}" for file in splits(taken)),
        rows="\n".join(f"| {file.stem} | {taken.counts[file.stem]} |" for file in splits(taken)),
        rule=json.loads((taken.path / "manifest.json").read_text(encoding="utf-8"))["label_rule"],
    )
    (out / "README.md").write_text(card, encoding="utf-8")


FORMS: dict[SnapshotForm, Callable[[Snapshot, Path], None]] = {
    SnapshotForm.jsonl: write_lines,
    SnapshotForm.hf: write_dataset,
}


def splits(taken: Snapshot) -> list[Path]:
    """The files of the splits that have rows."""
    return [file for split in SPLITS if (file := taken.path / f"{split}.parquet").exists()]


def rows(file: Path) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(file).iter_batches(500):
        yield from batch.to_pylist()
