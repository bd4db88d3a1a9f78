"""A stand-in for a judge model: a small HTTP server on loopback that speaks the OpenAI chat and batch protocols.

It is no language model. It takes the fenced prompt and answers out of the request, compares them with a given
`quality` function, and answers as a middling judge would: with noise, a liking for the answer shown first, and
now and then something that is no verdict. For tests it can also fail in the ways that real endpoints do.
Everything about it is named "stand-in", so that its labels cannot pass for a model's.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from alignment.demo.stand_in_batches import Batches, BatchManner
from alignment.demo.stand_in_replies import MODEL, Manner, Mind, Quality
from labeling.hashing import content_hash

__all__ = ["MODEL", "BatchManner", "Faults", "Manner", "StandInJudge"]


@dataclass(frozen=True)
class Faults:
    """Shares of attempts, each between 0 and 1, that go wrong; drawn anew at every attempt at a request.

    `refused`, `truncated` and `wrong_json` are replies, so they are drawn once for a request.
    """

    rate_limited: float = 0.0  # 429 with Retry-After
    server_error: float = 0.0  # 500
    cut: float = 0.0  # the connection is cut in the middle of the reply
    slow: float = 0.0  # the reply takes `slow_seconds`
    refused: float = 0.0
    truncated: float = 0.0
    wrong_json: float = 0.0
    retry_after: float = 0.05
    slow_seconds: float = 1.0


@dataclass
class Log:
    """What the server did, by request hash: `content_hash` of the request's body."""

    attempts: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)  # replies with status 200, sent whole
    faults: Counter[str] = field(default_factory=Counter)  # by the names in `Faults`
    over_limit: int = 0  # requests turned down by `per_second`, in none of the counts above


class StandInJudge:
    """`with StandInJudge(quality) as server:` serves at `server.base_url` until the block ends.

    The same request always gets the same verdict, whatever came before it. `api_key`, if given, is asked for.
    `latency` is the seconds that each reply takes; more than `per_second` requests are turned down with 429;
    `port` 0 takes a free one.
    """

    def __init__(
        self,
        quality: Quality,
        *,
        seed: int = 0,
        manner: Manner | None = None,
        faults: Faults = Faults(),
        logprobs: bool = True,
        latency: float = 0.0,
        per_second: float | None = None,
        batches: BatchManner | None = None,
        api_key: str | None = None,
        port: int = 0,
    ) -> None:
        self.mind = Mind(quality, seed, manner or Manner(), logprobs)
        self.faults = faults
        self.latency = latency
        self.per_second = per_second
        self._room = per_second or 0.0  # requests that may come at once: a second's worth
        self._last = time.monotonic()
        self.batches = Batches(batches or BatchManner(), self._answer_in_batch, self.mind.drawn)
        self.api_key = api_key
        self.log = Log()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def __enter__(self) -> StandInJudge:
        import uvicorn

        self._server = uvicorn.Server(
            uvicorn.Config(self._app(), log_level="critical", access_log=False, lifespan="off")
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name=MODEL, daemon=True
        )
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()

    def _app(self) -> Any:
        from fastapi import FastAPI, Request, Response

        app = FastAPI(title=MODEL, docs_url=None, redoc_url=None, openapi_url=None)

        async def models() -> Any:
            return {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "stand-in"}]}

        async def chat_completions(request: Request) -> Any:
            return await self._reply(request)

        async def files(request: Request) -> Any:
            if turned_away := self._without_key(request.headers.get("authorization")):
                return turned_away
            uploaded: Any = (await request.form())["file"]
            return self.batches.add_file(await uploaded.read())

        async def file(name: str) -> Any:
            return Response(self.batches.files[name], media_type="application/jsonl")

        async def create_batch(request: Request) -> Any:
            shown, lost = self.batches.create(await request.json())
            return error(500, "The server had an error.") if lost else shown

        async def list_batches() -> Any:
            shown = [self.batches.shown(name) for name in reversed(self.batches.batches)]
            return {"object": "list", "data": shown, "has_more": False}

        async def one_batch(name: str) -> Any:
            return self.batches.shown(name)

        # given as objects: FastAPI cannot look up names of this function's own scope
        for function in (chat_completions, files, create_batch):
            function.__annotations__ = {"request": Request}
        routes: tuple[tuple[str, str, Any], ...] = (
            ("GET", "/v1/models", models),
            ("POST", "/v1/chat/completions", chat_completions),
            ("POST", "/v1/files", files),
            ("GET", "/v1/files/{name}/content", file),
            ("POST", "/v1/batches", create_batch),
            ("GET", "/v1/batches", list_batches),
            ("GET", "/v1/batches/{name}", one_batch),
        )
        for method, path, function in routes:
            app.add_api_route(path, function, methods=[method], response_model=None)
        return app

    async def _reply(self, request: Any) -> Any:
        from fastapi.responses import Response, StreamingResponse

        body = await request.json()
        turned_away = self._turn_away(request.headers.get("authorization"), body.get("model"))
        if turned_away:
            return turned_away
        if not self._has_room():
            self.log.over_limit += 1
            wait = (1 - self._room) / (self.per_second or 1)
            return error(429, "Rate limit reached.", headers={"retry-after": f"{wait:.3f}"})
        name = content_hash(body)
        self.log.attempts[name] += 1
        fault = self._fault(name, self.log.attempts[name])
        if fault:
            self.log.faults[fault] += 1
        if fault == "rate_limited":
            return error(429, "Rate limit reached.", headers={"retry-after": str(self.faults.retry_after)})
        if fault == "server_error":
            return error(500, "The server had an error.")
        await asyncio.sleep(self.latency + (self.faults.slow_seconds if fault == "slow" else 0.0))
        content = self._body(body, name)
        if fault == "cut":
            whole = {"content-length": str(len(content)), "content-type": "application/json"}
            return StreamingResponse(_one(content[: len(content) // 2]), headers=whole)
        if not await request.is_disconnected():
            self.log.answered[name] += 1
        return Response(content, media_type="application/json")

    def _turn_away(self, authorization: str | None, model: Any) -> Any:
        if turned_away := self._without_key(authorization):
            return turned_away
        if model != MODEL:
            return error(404, f"The model {model!r} does not exist.", code="model_not_found")
        return None

    def _without_key(self, authorization: str | None) -> Any:
        if self.api_key and authorization != f"Bearer {self.api_key}":
            return error(401, "Incorrect API key provided.", code="invalid_api_key")
        return None

    def _has_room(self) -> bool:
        """Whether the limit lets one more request in: a bucket that fills at `per_second`."""
        if self.per_second is None:
            return True
        now = time.monotonic()
        self._room = min(self.per_second, self._room + (now - self._last) * self.per_second)
        self._last = now
        if self._room < 1:
            return False
        self._room -= 1
        return True

    def _body(self, body: dict[str, Any], name: str) -> bytes:
        if self.mind.drawn(name, "wrong_json") < self.faults.wrong_json:
            return b"<html>not what was asked for</html>"
        return json.dumps(self._completion(body, name)).encode()

    def _completion(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        faults = self.faults
        return self.mind.chat_completion(body, name, refused=faults.refused, truncated=faults.truncated)

    def _answer_in_batch(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = content_hash(body)
        self.log.attempts[name] += 1
        if self.mind.drawn(name, "batch", self.log.attempts[name]) < self.faults.server_error:
            return 500, {"error": {"message": "The server had an error.", "type": "error", "code": None}}
        self.log.answered[name] += 1
        return 200, self._completion(body, name)

    def _fault(self, name: str, attempt: int) -> str | None:
        draw = self.mind.drawn(name, "fault", attempt)
        for fault in ("rate_limited", "server_error", "cut", "slow"):
            draw -= getattr(self.faults, fault)
            if draw < 0:
                return fault
        return None


def error(
    status: int, message: str, *, code: str | None = None, headers: dict[str, str] | None = None
) -> Any:
    """A failure as the OpenAI API words it."""
    from fastapi.responses import JSONResponse

    return JSONResponse({"error": {"message": message, "type": "error", "code": code}}, status, headers)


async def _one(part: bytes) -> AsyncIterator[bytes]:
    yield part
    await asyncio.sleep(0)  # the part is sent; the server then finds the body too short and cuts
