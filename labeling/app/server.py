"""The labeling server: every page and the API over one store, behind one gate."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Callable

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from labeling.app import api, pages
from labeling.app.admin import build_admin
from labeling.app.annotate import build_annotator
from labeling.app.frame import STATIC, framed
from labeling.app.gate import UPLOAD_LIMIT, Gate
from labeling.app.identity import NotAllowed, NotSignedIn, require
from labeling.app.live import Policy
from labeling.app.pages import ADMIN, HOME
from labeling.app.texts import LANGUAGES
from labeling.app.theme import theme
from labeling.errors import LabelingError
from labeling.people.accounts import first_admin
from labeling.people.person import Role
from labeling.store import Store

HANDLERS_AT_ONCE = 64
GRACE_SECONDS = 5  # how long a stopping server waits for requests that are under way


def create_app(store: Store, policy: Policy | None = None) -> FastAPI:
    """The whole app over a store. `policy` answers leads' prompts live."""
    app = FastAPI(title="align label", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.include_router(pages.router(store))
    app.include_router(api.router(store), prefix="/api")
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.get("/health", include_in_schema=False)
    def health() -> dict[str, str]:
        with store.engine.connect():
            return {"status": "ok"}

    app.add_exception_handler(LabelingError, as_json)
    rooms: dict[str, Role] = {}
    for language in LANGUAGES:
        rooms[f"{HOME}/{language}"] = "annotator"
        mount(app, build_annotator(store, language), f"{HOME}/{language}", "annotator")
    rooms[ADMIN] = "lead"
    mount(app, build_admin(store, policy), ADMIN, "lead")
    app.add_middleware(Gate, store=store, rooms=rooms, framed=framed)
    return app


def mount(app: FastAPI, blocks: gr.Blocks, path: str, role: Role) -> None:
    """Put a Gradio page at a path, for people of at least this role."""

    async def user(request: Request) -> str | None:
        try:
            return str((await run_in_threadpool(require, request, role)).id)
        except (NotSignedIn, NotAllowed):
            return None

    blocks.queue(default_concurrency_limit=HANDLERS_AT_ONCE, api_open=False)
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


def as_json(_: Request, error: Exception) -> JSONResponse:
    """A refusal of the API: what went wrong in one line."""
    status = 401 if isinstance(error, NotSignedIn) else 403 if isinstance(error, NotAllowed) else 400
    return JSONResponse({"error": str(error)}, status)


class Server(uvicorn.Server):
    """Says when it can be reached."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()


def serve(
    store_url: str,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    policy: Policy | None = None,
    open_browser: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the app over the store at `store_url` until it is stopped.

    A store without people yet gets a link, said once the server is up, by which its first admin comes in.
    Raises LabelingError for a store that cannot be opened or an address that cannot be listened on.
    """
    store = Store.open(store_url)
    listener = listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    invitation = first_admin(store)
    entrance = f"{address}/invitation/{invitation}" if invitation else address

    def ready() -> None:
        say(f"labeling at {address} (Ctrl+C stops it)")
        if invitation:
            say(f"nobody can sign in yet; make the first admin here (once, within 7 days): {entrance}")
        if open_browser:
            webbrowser.open(entrance)

    config = uvicorn.Config(
        create_app(store, policy),
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    Server(config, ready).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address, before the slow parts begin: a port that is taken is known at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise LabelingError(f"cannot listen on {host} port {port}: {error}; choose another --port") from None
    return listener
