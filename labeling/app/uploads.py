"""Importing a file that came over the network: nothing of it stays on disk but what the store takes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from labeling.importers import ImportReport, import_path
from labeling.people import audit
from labeling.people.person import Person
from labeling.store import Store

MOST_REJECTS = 20  # shown with their reasons


def import_upload(
    store: Store,
    person: Person,
    stream: IO[bytes],
    name: str,
    *,
    format: str = "auto",
    progress: Callable[[int], None] | None = None,
) -> tuple[ImportReport, list[str]]:
    """Bring an uploaded file into the store; the report, and the first rejected rows as JSON lines.

    The name only tells the format and what the store calls the source; it leads to no place on this machine.
    Raises LabelingError for a file that cannot be read, or whose format is unknown.
    """
    name = re.sub(r"[^\w.-]", "_", Path(name).name)[-100:].lstrip(".") or "upload"
    with TemporaryDirectory(prefix="align-import-") as folder:
        path, rejects = Path(folder) / name, Path(folder) / "rejects" / "rows.jsonl"
        with path.open("wb") as out:
            shutil.copyfileobj(stream, out)
        report = import_path(store, path, format=format, rejects=rejects, progress=progress, name=name)
        rejected = []
        if report.rejects_path:
            with rejects.open(encoding="utf-8") as lines:
                rejected = [line.rstrip("\n") for line in islice(lines, MOST_REJECTS)]
    audit.record(store, person.id, "data.import", name, report.counts)
    return replace(report, rejects_path=None), rejected
