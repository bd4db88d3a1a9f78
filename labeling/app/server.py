"""The labeling server: every page and the API over one store, behind one gate."""

from __future__ import annotations

import asyncio
import socket
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from labeling.app import api, pages
from labeling.app.frame import STATIC, framed
from labeling.app.gate import Gate
from labeling.app.identity import status_of
from labeling.app.live import Policy
from labeling.app.pages import ADMIN, HOME
from labeling.app.texts import LANGUAGES
from labeling.errors import LabelingError
from labeling.people.accounts import first_admin
from labeling.people.person import Role
from labeling.store import Store

ROOMS: dict[str, Role] = {**{f"{HOME}/{language}": "annotator" for language in LANGUAGES}, ADMIN: "lead"}
GRACE_SECONDS = 5  # how long a stopping server waits for requests that are under way


def create_app(store: Store, policy: Policy | None = None) -> FastAPI:
    """The whole app over a store. `policy` answers leads' prompts live."""
    doorway = Doorway(store, policy)
    app = FastAPI(
        lifespan=doorway.lifespan,
        title="align label",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.include_router(pages.router(store))
    app.include_router(api.router(store), prefix="/api")
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.get("/health", include_in_schema=False)
    def health() -> dict[str, str]:
        with store.engine.connect():
            return {"status": "ok"}

    app.add_exception_handler(LabelingError, as_json)
    app.add_middleware(Gate, store=store, rooms=ROOMS, enter=doorway.enter, framed=framed)
    return app


class Doorway:
    """To Gradio's pages, which are built in the background. Who comes early waits."""

    def __init__(self, store: Store, policy: Policy | None) -> None:
        self.store, self.policy = store, policy
        self.built: asyncio.Future[FastAPI] | None = None

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self.built, closing = asyncio.get_running_loop().create_future(), asyncio.Event()
        keeping = asyncio.create_task(self.keep(self.built, closing))
        yield
        closing.set()
        await keeping

    async def keep(self, built: asyncio.Future[FastAPI], closing: asyncio.Event) -> None:
        """Build the pages, and keep what they need alive until the server stops."""
        try:
            rooms = await run_in_threadpool(self.build)
        except Exception as error:  # whoever waits is told, and so is the log
            built.set_exception(error)
            raise
        async with rooms.router.lifespan_context(rooms):
            built.set_result(rooms)
            await closing.wait()

    def build(self) -> FastAPI:
        from labeling.app.rooms import build_rooms

        return build_rooms(self.store, self.policy)

    async def enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.built is None:
            raise RuntimeError("the app has not been started")
        rooms = await asyncio.shield(self.built)
        await rooms(scope, receive, send)


def as_json(_: Request, error: Exception) -> JSONResponse:
    """A refusal: what went wrong in one line."""
    return JSONResponse({"error": str(error)}, status_of(error))


class Server(uvicorn.Server):
    """Says when it can be reached."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()


def print_at_once(words: str) -> None:
    """Also where output goes to a file or a pipe, which would else keep it to itself until the server ends."""
    print(words, flush=True)  # noqa: T201  what a server says goes to its output


def serve(
    store_url: str,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    policy: Policy | None = None,
    open_browser: bool = False,
    say: Callable[[str], None] = print_at_once,
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
