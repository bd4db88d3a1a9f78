"""Who changed what, newest first."""

from __future__ import annotations

import json

import gradio as gr

from labeling.app.lead.desk import Asking, Desk, Updates, ours, table
from labeling.people.audit import entries
from labeling.store import Store

PAGE = 50


def lay_out(tab: gr.Tab, store: Store) -> None:
    desk = Desk.lay_out(store)
    listed = ours()
    before = gr.Number(precision=0, visible="hidden", label="before")
    older = gr.Button("Older", size="sm", elem_classes="quiet", visible=False)

    def show(asking: Asking, before_id: int | None = None) -> Updates:
        found = entries(store, PAGE, int(before_id) if before_id else None)
        rows = [
            (
                f"{one.at:%Y-%m-%d %H:%M}",
                one.actor,
                one.action,
                one.target,
                json.dumps(one.detail, ensure_ascii=False) if one.detail else "",
            )
            for one in found
        ]
        return {
            listed: table(
                "Changes (UTC)", ("When", "Who", "What", "Of what", "Details"), rows, "Nothing yet."
            ),
            before: found[-1].id if found else None,
            older: gr.update(visible=len(found) == PAGE),
        }

    outputs = [listed, before, older]
    desk.on(tab.select, show, outputs=outputs)
    desk.on(older.click, show, [before], outputs)
