"""Getting data out again, for other tools: SFT data, prompts and labels."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import select

from labeling.errors import LabelingError
from labeling.reads import read_labels
from labeling.schema import Completion, Prompt
from labeling.store import Store

LABEL_COLUMNS = (
    "id", "comparison_id", "annotator", "kind", "purpose", "verdict", "p_first", "strength", "shown_order", "rationale",
    "seconds", "meta", "created_at",
)  # fmt: skip
Row = dict[str, Any]


def export_sft(store: Store, path: Path) -> int:
    """Write the answers worth imitating as JSON lines {prompt, completion}, both message lists; how many."""
    query = select(Prompt.messages, Completion.messages).join(Completion.prompt).where(Completion.reference)
    return write(path, write_jsonl, read(store, query.order_by(Completion.id), ("prompt", "completion")))


def export_prompts(store: Store, path: Path) -> int:
    """Write every prompt as JSON lines {prompt}, a message list; how many."""
    return write(path, write_jsonl, read(store, select(Prompt.messages).order_by(Prompt.id), ("prompt",)))


def export_labels(store: Store, path: Path) -> int:
    """Write every effective label to a .csv, .jsonl or .parquet file; how many.

    In CSV a text that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    writers = {".csv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}
    if path.suffix not in writers:
        raise LabelingError(f"cannot export labels as {path.name}: end it in {', '.join(writers)}")
    return write(path, writers[path.suffix], label_rows(store))


def read(store: Store, query: Any, columns: tuple[str, ...]) -> Iterator[Row]:
    with store.snapshot() as connection:
        for row in connection.execution_options(stream_results=True, yield_per=500).execute(query):
            yield dict(zip(columns, row, strict=True))


def label_rows(store: Store) -> Iterator[Row]:
    with store.snapshot() as connection:
        for label in read_labels(connection):
            row = {column: getattr(label, column) for column in LABEL_COLUMNS}
            yield row | {"created_at": label.created_at.isoformat(timespec="seconds")}


def write(path: Path, writer: Callable[[Path, Iterable[Row]], int], rows: Iterable[Row]) -> int:
    """Write aside, then rename: a file under its name is whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        count = writer(aside, rows)
        aside.replace(path)
    except OSError as error:
        raise LabelingError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if aside.exists():
            aside.unlink()
    return count


def write_jsonl(path: Path, rows: Iterable[Row]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for count, row in enumerate(rows, start=1):  # noqa: B007 (the last one is the count)
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count


def write_csv(path: Path, rows: Iterable[Row]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, LABEL_COLUMNS)
        table.writeheader()
        for count, row in enumerate(flat(rows), start=1):  # noqa: B007 (the last one is the count)
            table.writerow({key: harmless(value) for key, value in row.items()})
    return count


def write_parquet(path: Path, rows: Iterable[Row]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(list(flat(rows)), schema=label_schema())
    pq.write_table(table, path)
    return table.num_rows


def label_schema() -> Any:
    import pyarrow as pa

    types = {"id": pa.int64(), "comparison_id": pa.int64(), "strength": pa.int64()}
    types |= {"p_first": pa.float64(), "seconds": pa.float64()}
    return pa.schema([(column, types.get(column, pa.string())) for column in LABEL_COLUMNS])


def flat(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows with their lists and objects as JSON text, for tables."""
    for row in rows:
        yield row | {key: json.dumps(row[key], ensure_ascii=False) for key in ("shown_order", "meta")}


def harmless(value: Any) -> Any:
    """`value` so that a spreadsheet shows it and does not run it (OWASP, CSV injection)."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return "'" + value
    return value
