"""The lead's page: one tab for each thing that a lead does."""

from __future__ import annotations

import gradio as gr

from labeling.app.lead import adjudication, history, items, overview, settings, talk, team, transfer
from labeling.app.lead.desk import ours
from labeling.app.live import Policy
from labeling.store import Store

UPLOADS_KEPT = 3600  # seconds that an uploaded file may lie in Gradio's own folder


def build_admin(store: Store, policy: Policy | None = None) -> gr.Blocks:
    """The page over a store. Who may see it is the server's to say, and each handler's.

    `policy` answers prompts in the tab Live; without one the tab says how to have it.
    """
    with gr.Blocks(
        title="Lead", analytics_enabled=False, delete_cache=(UPLOADS_KEPT, UPLOADS_KEPT), fill_width=True
    ) as blocks:
        ours("<h1>Lead</h1>", elem_classes="only-spoken")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Overview"):
                overview.lay_out(blocks, store)
            with gr.Tab("Queue") as tab:
                settings.lay_out(tab, store)
            with gr.Tab("People") as tab:
                team.lay_out(tab, store)
            with gr.Tab("Items") as tab:
                items.lay_out(tab, store)
            with gr.Tab("Adjudicate") as tab:
                adjudication.lay_out(tab, store)
            with gr.Tab("Import"):
                transfer.lay_out_import(store)
            with gr.Tab("Export"):
                transfer.lay_out_export()
            with gr.Tab("Live"):
                talk.lay_out(store, policy)
            with gr.Tab("Audit log") as tab:
                history.lay_out(tab, store)
    return blocks
