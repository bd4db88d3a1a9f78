"""Bringing data in from a file, and taking labels out as files."""

from __future__ import annotations

from html import escape
from pathlib import Path

import gradio as gr

from labeling.app.lead.desk import Asking, Updates, heading, note, ours
from labeling.app.uploads import import_upload
from labeling.errors import LabelingError
from labeling.importers.formats import FORMATS
from labeling.store import Store

LABELS = (("CSV", "csv"), ("JSON lines", "jsonl"), ("Parquet", "parquet"))
SNAPSHOTS = (("Parquet", "parquet"), ("JSON lines", "jsonl"), ("Hugging Face dataset", "hf"))


def lay_out_import(store: Store) -> None:
    heading(
        "Import a file",
        "Preferences become comparisons with a label, instruction data prompts with an answer. "
        "Importing the same rows again adds nothing.",
    )
    notice = ours(elem_classes="notice")
    file = gr.File(label="JSON lines, JSON, CSV or Parquet, also gzipped", type="filepath")
    form = gr.Dropdown(["auto", *(one.name for one in FORMATS)], value="auto", label="Format")
    start = gr.Button("Import", variant="primary")
    report = ours()

    def handle(
        request: gr.Request,
        path: str | None,
        form: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Updates:
        try:
            asking = Asking.of(request, "lead")
            if not path:
                raise LabelingError("choose a file first")
            done = 0

            def advance(rows: int) -> None:
                nonlocal done
                done += rows
                progress((done, None), desc="importing", unit="rows")

            with Path(path).open("rb") as stream:
                said, rejected = import_upload(
                    store, asking.person, stream, Path(path).name, format=form, progress=advance
                )
        except LabelingError as error:
            return {notice: note(str(error), wrong=True), report: ""}
        lines = "\n".join([said.as_text(), *rejected])
        return {
            notice: note(f"{said.counts['added']:,} of {said.counts['rows']:,} rows added."),
            report: f'<pre tabindex="0">{escape(lines)}</pre>',
        }

    start.click(handle, [file, form], [notice, report], api_visibility="private")


def lay_out_export() -> None:
    heading("Labels", "Every label that nothing supersedes, one a row.")
    with gr.Row(elem_classes="line"):
        for name, form in LABELS:
            gr.Button(name, link=f"/api/export/labels.{form}")
    heading(
        "Snapshot",
        "The labels as a preference dataset that never changes, named by its content: what training reads.",
    )
    with gr.Row(elem_classes="line"):
        for name, form in SNAPSHOTS:
            gr.Button(name, link=f"/api/export/snapshot-{form}.zip")
