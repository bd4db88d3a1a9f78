"""Gradio's pages over a store: the annotator's in each language, and the lead's.

Importing Gradio and building them takes seconds, so the server does it while it already answers.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_DEFAULT_CONCURRENCY_LIMIT", "64")  # handlers at once; read when Blocks are made
import gradio as gr
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from labeling.app.admin import build_admin
from labeling.app.annotate import build_annotator
from labeling.app.gate import UPLOAD_LIMIT
from labeling.app.identity import NotAllowed, NotSignedIn, require
from labeling.app.live import Policy
from labeling.app.pages import ADMIN, HOME
from labeling.app.texts import LANGUAGES
from labeling.app.theme import theme
from labeling.people.person import Role
from labeling.store import Store


def build_rooms(store: Store, policy: Policy | None) -> FastAPI:
    """An app of nothing but Gradio's pages, at their paths."""
    app = FastAPI(openapi_url=None)
    for language in LANGUAGES:
        mount(app, build_annotator(store, language), f"{HOME}/{language}", "annotator")
    mount(app, build_admin(store, policy), ADMIN, "lead")
    return app


def mount(app: FastAPI, blocks: gr.Blocks, path: str, role: Role) -> None:
    """Put a Gradio page at a path, for people of at least this role."""

    async def user(request: Request) -> str | None:
        try:
            return str((await run_in_threadpool(require, request, role)).id)
        except (NotSignedIn, NotAllowed):
            return None

    gr.mount_gradio_app(
        app,
        blocks,
        path,
        auth_dependency=user,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        max_file_size=UPLOAD_LIMIT,
        theme=theme(),
    )
