"""What every request passes first, whatever answers it: size, origin, the few doors into Gradio, and headers.

Gradio serves many routes that this app does not use (uploads, files, proxies, other calling conventions); only
those that its pages need are open. Its pages leave here in our frame, under a policy that names a fresh nonce.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling.app.identity import STORE_KEY, NotAllowed, NotSignedIn, require
from labeling.people.person import Person, Role
from labeling.store import Store

BODY_LIMIT = 2 * 1024 * 1024
UPLOAD_LIMIT = 1024 * 1024 * 1024  # leads import files
UPLOADS = ("/gradio_api/upload", "/api/import")
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
# /app_id stays shut: a page that lost its server asks there, and reloads, with what was typed, when it answers
OPEN_DOORS = re.compile(
    r"/?|/config|/theme\.css|/assets/[^/]+|/static/.+|/favicon\.ico"
    r"|/gradio_api/(info|startup-events|run/predict|queue/join|queue/data|cancel|heartbeat/\w+)"
)
LEADS_DOORS = re.compile(r"/gradio_api/(upload|upload_progress|file=.+)")
POLICY = (
    "default-src 'self'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; frame-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
Framed = Callable[[str, Person, str], str]  # (Gradio's document, who sees it, nonce) -> what is sent


class TooLarge(Exception):
    """A body grew beyond its limit while it was read."""


class Gate:
    """The middleware. `rooms` are the paths of Gradio's pages, with the role that each needs; `enter` serves them."""

    def __init__(
        self, app: ASGIApp, *, store: Store, rooms: Mapping[str, Role], enter: ASGIApp, framed: Framed
    ) -> None:
        self.app, self.store, self.rooms, self.enter, self.framed = app, store, rooms, enter, framed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope[STORE_KEY] = self.store
        nonce = secrets.token_urlsafe(16)
        send = with_headers(send, nonce)
        headers = Headers(scope=scope)
        room, door = self.room_of(scope["path"])
        if is_foreign(scope["method"], headers):
            await PlainTextResponse("this request came from another site", 403)(scope, receive, send)
        elif room and not is_open(door, self.rooms[room]):
            await PlainTextResponse("not found", 404)(scope, receive, send)
        elif room and door in ("", "/"):
            answer = await self.document(scope, receive, self.rooms[room], nonce)
            await answer(scope, receive, send)
        else:
            limit = UPLOAD_LIMIT if door in UPLOADS else BODY_LIMIT
            await limited(self.enter if room else self.app, scope, receive, send, limit)

    def room_of(self, path: str) -> tuple[str, str]:
        """(the room that a path lies in, the rest of the path); ("", path) outside of all rooms."""
        for room in self.rooms:
            if path == room or path.startswith(room + "/"):
                return room, path.removeprefix(room)
        return "", path

    async def document(self, scope: Scope, receive: Receive, role: Role, nonce: str) -> Response:
        """One of Gradio's pages in our frame, for those who may see it."""
        try:
            person = await run_in_threadpool(require, Request(scope), role)
        except NotSignedIn:
            return RedirectResponse(f"/login?next={quote(scope['path'])}", 303)
        except NotAllowed as error:
            return PlainTextResponse(str(error), 403)
        if not scope["path"].endswith("/"):
            return RedirectResponse(scope["path"] + "/", 307)
        status, body = await collect(self.enter, uncompressed(scope), receive)
        if status != 200:
            return PlainTextResponse("this page is not there", status)
        html = self.framed(body.decode(), person, nonce)
        return Response(html, media_type="text/html", headers={"Cache-Control": "no-store"})


async def limited(app: ASGIApp, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
    """Pass the request on, unless its body is longer than it says or than it may be."""
    too_large = PlainTextResponse("this is too much at once", 413)
    declared = Headers(scope=scope).get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limit:
        await too_large(scope, receive, send)
        return
    read, begun = 0, False

    async def counted() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > limit:
            raise TooLarge
        return message

    async def watched(message: Message) -> None:
        nonlocal begun
        if read <= limit:  # whatever the app makes of a body that broke off, it is not the answer
            begun = True
            await send(message)

    with suppress(TooLarge):
        await app(scope, counted, watched)
    if read > limit and not begun:
        await too_large(scope, receive, send)


def is_foreign(method: str, headers: Headers) -> bool:
    """Whether a request that changes something was sent by another site's page.

    Browsers name the origin of every such request. Scripts have no cookies to abuse: they send a Bearer token.
    """
    if method in SAFE_METHODS or headers.get("authorization", "").lower().startswith("bearer "):
        return False
    origin = headers.get("origin", "")
    return urlsplit(origin).netloc.lower() != headers.get("host", "").lower() or not origin


def is_open(door: str, role: Role) -> bool:
    """Whether a route of Gradio's is one that the page of this role needs."""
    return bool(OPEN_DOORS.fullmatch(door)) or (role != "annotator" and bool(LEADS_DOORS.fullmatch(door)))


def with_headers(send: Send, nonce: str) -> Send:
    """A `send` that adds the security headers to whatever answer there is."""

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("Content-Security-Policy", POLICY.format(nonce=nonce))
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sender


def uncompressed(scope: Scope) -> Scope:
    """The same request from a browser that cannot unpack: its answer is going to be read here."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
    return {**scope, "headers": headers}


async def collect(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[int, bytes]:
    """An app's whole answer: its status and body."""
    status, parts = 500, []

    async def keep(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, keep)
    return status, b"".join(parts)
