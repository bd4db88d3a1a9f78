"""Files to take away, made anew for each request in a folder of their own and removed when they are sent.

No part of a request is ever part of a path: what can be had is what the enums name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from labeling.app.callers import Lead
from labeling.export import export_labels
from labeling.people import audit
from labeling.snapshot_forms import SnapshotForm, export_snapshot
from labeling.store import Store


class LabelForm(StrEnum):
    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"


def add_downloads(api: APIRouter, store: Store) -> None:
    """The routes under /export."""

    @api.get("/export/labels.{form}", tags=["lead"], response_class=FileResponse)
    def labels(form: LabelForm, person: Lead) -> FileResponse:
        """Every label that is not superseded. In CSV, what a spreadsheet would run is made harmless."""
        audit.record(store, person.id, "data.export", f"labels.{form}")
        return made(lambda folder: exported_labels(store, folder / f"labels.{form}"))

    @api.get("/export/snapshot-{form}.zip", tags=["lead"], response_class=FileResponse)
    def snapshot(
        form: SnapshotForm,
        person: Lead,
        test_share: Annotated[
            float, Query(ge=0, lt=1, description="the share of prompts kept for testing")
        ] = 0.1,
        seed: Annotated[int, Query(description="which prompts these are")] = 0,
    ) -> FileResponse:
        """The labels as a preference dataset: Parquet, JSON lines, or a Hugging Face dataset folder."""
        audit.record(
            store, person.id, "data.export", f"snapshot-{form}", {"test_share": test_share, "seed": seed}
        )
        return made(lambda folder: zipped_snapshot(store, folder, form, test_share, seed))


def made(make: Callable[[Path], Path]) -> FileResponse:
    """The file that `make` leaves in a new folder, sent under its name."""
    folder = Path(mkdtemp(prefix="align-export-"))
    try:
        path = make(folder)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return FileResponse(path, filename=path.name, background=BackgroundTask(shutil.rmtree, folder))


def exported_labels(store: Store, path: Path) -> Path:
    export_labels(store, path)
    return path


def zipped_snapshot(store: Store, folder: Path, form: SnapshotForm, test_share: float, seed: int) -> Path:
    """The snapshot's folder in an archive, so that it unpacks under the name of its content."""
    taken = export_snapshot(store, folder / "snapshots", form, test_share=test_share, seed=seed)
    archive = shutil.make_archive(str(folder / f"snapshot-{taken.name}"), "zip", taken.parent, taken.name)
    return Path(archive)
