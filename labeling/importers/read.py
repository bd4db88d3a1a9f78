"""Rows from files, folders and the hub, one by one; a row that cannot be read is passed on with the reason."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from labeling.errors import LabelingError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Raw:
    """One row as found. `number` counts from 1: the line of a text file, the row of a table."""

    number: int
    row: dict[str, Any] | None
    reason: str = ""  # why `row` is None
    text: Any = None  # what stood there instead


def read_rows(source: str) -> Iterator[Raw]:
    """The rows of a file, of a folder that `datasets` reads, or of a hub data set (owner/name or with :split).

    Raises LabelingError if there is nothing of that name, or when a file turns out to be damaged.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return read_file(path)
    name, _, split = source.partition(":")
    if Path(name).is_dir():
        return read_dataset(name, split)
    if (
        name.count("/") == 1
        and not name.startswith((".", "/", "~"))
        and not name.endswith((*SUFFIXES, ".gz"))
    ):
        return read_dataset(name, split)
    raise LabelingError(f"no file or folder {source} (a data set on the hub is named owner/name)")


def read_file(path: Path) -> Iterator[Raw]:
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    readers = {
        ".csv": read_csv,
        ".tsv": read_csv,
        ".json": read_json,
        ".jsonl": read_lines,
        ".ndjson": read_lines,
    }
    number = 0
    try:
        if kind == ".parquet" and path.suffix != ".gz":
            rows = read_parquet(path)
        elif kind in readers:
            rows = read_text(path, kind, readers[kind])
        else:
            raise LabelingError(
                f"{path}: unknown kind of file; known: {', '.join(SUFFIXES)}, text also as .gz"
            )
        for raw in rows:
            number = raw.number
            yield raw
    except (OSError, EOFError, zlib.error, csv.Error, ValueError) as error:  # pyarrow's are among these
        line = str(error).partition("\n")[0]
        if number:
            line += f" (after row {number}; the rows up to there are whole)"
        raise LabelingError(f"{path} cannot be read: {line}") from None


def read_text(path: Path, kind: str, reader: Any) -> Iterator[Raw]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        yield from reader(stream, kind)


def read_lines(stream: IO[bytes], _kind: str) -> Iterator[Raw]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield read_line(number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def read_line(number: int, line: bytes) -> Raw:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=refuse_constant)
    except UnicodeDecodeError:
        return Raw(number, None, "invalid UTF-8", line.decode("utf-8", "backslashreplace").rstrip("\n"))
    except (ValueError, RecursionError) as error:
        return Raw(number, None, f"malformed JSON: {error}", line.decode("utf-8").rstrip("\n"))
    return as_row(number, row)


def refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def as_row(number: int, row: Any) -> Raw:
    if isinstance(row, dict):
        return Raw(number, row)
    return Raw(number, None, "not an object with columns", row)


def read_json(stream: IO[bytes], kind: str) -> Iterator[Raw]:
    """A JSON array of objects; or JSON lines under the name .json, as many data sets have them."""
    start = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    stream.seek(0)
    if start != b"[":
        yield from read_lines(stream, kind)
        return
    rows = json.loads(stream.read().decode("utf-8-sig"), parse_constant=refuse_constant)
    for number, row in enumerate(rows, start=1):
        yield as_row(number, row)


def read_csv(stream: IO[bytes], kind: str) -> Iterator[Raw]:
    """A table with a header. Bytes that are not UTF-8 survive as surrogates, and their row is refused later."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    lines = (
        line.decode("utf-8-sig" if n == 0 else "utf-8", "surrogateescape") for n, line in enumerate(stream)
    )
    reader = csv.DictReader(lines, delimiter="\t" if kind == ".tsv" else ",", restkey="", strict=True)
    for row in reader:
        if "" in row or None in row.values():
            reason = f"{'more' if '' in row else 'fewer'} cells than the header has columns"
            yield Raw(reader.line_num, None, reason, row)
        else:
            yield Raw(reader.line_num, {key: value or None for key, value in row.items()})


def read_parquet(path: Path) -> Iterator[Raw]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        rows = (row for batch in file.iter_batches(batch_size=500) for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield Raw(number, row)


def read_dataset(name: str, split: str) -> Iterator[Raw]:
    from datasets import DatasetDict, load_dataset, load_from_disk

    try:
        saved = any((Path(name) / file).exists() for file in ("dataset_dict.json", "state.json"))
        found = load_from_disk(name) if saved else load_dataset(name)
    except Exception as error:  # whatever network, hub and builder scripts come up with
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise LabelingError(f"cannot load data set {name}: {lines[0]}") from None
    if isinstance(found, DatasetDict):
        if split not in found and len(found) > 1:
            raise LabelingError(
                f"{name} has the splits {', '.join(found)}: name one, as in {name}:{next(iter(found))}"
            )
        if split and split not in found:
            raise LabelingError(f"{name} has no split {split!r}; it has {', '.join(found)}")
        found = found[split or next(iter(found))]
    return number_rows(found)


def number_rows(rows: Iterable[dict[str, Any]]) -> Iterator[Raw]:
    return (Raw(number, dict(row)) for number, row in enumerate(rows, start=1))
