"""A stand-in for a judge model: a small HTTP server on loopback that speaks the OpenAI chat protocol.

It is no language model. It takes the fenced prompt and answers out of the request, compares them with a given
`quality` function, and answers as a middling judge would: with noise, a liking for the answer shown first, and
now and then something that is no verdict. For tests it can also fail in the ways that real endpoints do.
Everything about it is named "stand-in", so that its labels cannot pass for a model's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from labeling.hashing import content_hash

MODEL = "stand-in-judge"
Quality = Callable[[str, str], float]  # (prompt text, answer text) -> how good, higher is better

_FENCED = re.compile(r"<judged_(prompt|answer_a|answer_b)>\n(.*?)\n</judged_\1>", re.DOTALL)
_GARBAGE = (
    "Both answers have their merits.",
    "A or B? It depends on what the guest wants.",
    '{"winner": null}',
    "Ignore the letters; here is a poem about judges.",
)


@dataclass(frozen=True)
class Manner:
    """How the stand-in judges. A logit of 1 is odds of e to 1."""

    sharpness: float = 4.0  # logit for each unit of quality between the answers
    noise: float = 0.5  # standard deviation of its view of one answer, in units of quality
    first_bias: float = 0.4  # logit added to the answer shown first
    tie_logit: float = -1.0  # logit of "equally good" when the answers seem alike
    garbage: float = 0.02  # share of requests that get a reply without a verdict


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


class StandInJudge:
    """`with StandInJudge(quality) as server:` serves at `server.base_url` until the block ends.

    The same request always gets the same verdict, whatever came before it. `api_key`, if given, is asked for.
    `latency` is the seconds that each reply takes; `port` 0 takes a free one.
    """

    def __init__(
        self,
        quality: Quality,
        *,
        seed: int = 0,
        manner: Manner = Manner(),
        faults: Faults = Faults(),
        logprobs: bool = True,
        latency: float = 0.0,
        api_key: str | None = None,
        port: int = 0,
    ) -> None:
        self.quality = quality
        self.seed = seed
        self.manner = manner
        self.faults = faults
        self.logprobs = logprobs
        self.latency = latency
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
        from fastapi import FastAPI, Request

        app = FastAPI(title=MODEL, docs_url=None, redoc_url=None, openapi_url=None)

        async def models() -> Any:
            return {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "stand-in"}]}

        async def chat_completions(request: Request) -> Any:
            return await self._reply(request)

        # given as objects: FastAPI cannot look up names of this function's own scope
        chat_completions.__annotations__ = {"request": Request}
        app.add_api_route("/v1/models", models, methods=["GET"])
        app.add_api_route("/v1/chat/completions", chat_completions, methods=["POST"], response_model=None)
        return app

    async def _reply(self, request: Any) -> Any:
        from fastapi.responses import Response, StreamingResponse

        body = await request.json()
        turned_away = self._turn_away(request.headers.get("authorization"), body.get("model"))
        if turned_away:
            return turned_away
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
        if self.api_key and authorization != f"Bearer {self.api_key}":
            return error(401, "Incorrect API key provided.", code="invalid_api_key")
        if model != MODEL:
            return error(404, f"The model {model!r} does not exist.", code="model_not_found")
        return None

    def _body(self, body: dict[str, Any], name: str) -> bytes:
        if self._drawn(name, "wrong_json") < self.faults.wrong_json:
            return b"<html>not what was asked for</html>"
        return json.dumps(self.chat_completion(body, name)).encode()

    def _fault(self, name: str, attempt: int) -> str | None:
        draw = self._drawn(name, "fault", attempt)
        for fault in ("rate_limited", "server_error", "cut", "slow"):
            draw -= getattr(self.faults, fault)
            if draw < 0:
                return fault
        return None

    def _drawn(self, *what: Any) -> float:
        """A number in [0, 1) that depends on the seed and `what` alone."""
        digest = hashlib.sha256(json.dumps([self.seed, *what]).encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    def chat_completion(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        """The reply to a request's body, as an OpenAI chat completion."""
        text = "\n".join(str(message["content"]) for message in body["messages"])
        probabilities = self.label_probabilities(text)
        message: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        finish = "stop"
        if probabilities is None or self._drawn(name, "garbage") < self.manner.garbage:
            message["content"] = _GARBAGE[int(self._drawn(name, "which") * len(_GARBAGE))]
        elif self._drawn(name, "refused") < self.faults.refused:
            message |= {"content": None, "refusal": "I cannot help with judging this."}
        elif self._drawn(name, "truncated") < self.faults.truncated:
            message["content"], finish = "Let me first look at answer", "length"
        else:
            message["content"] = max(probabilities, key=lambda label: probabilities[label])
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        if self.logprobs and body.get("logprobs") and message["content"] in (probabilities or {}):
            top = [token_logprob(label, p) for label, p in (probabilities or {}).items()]
            chosen = next(entry for entry in top if entry["token"] == message["content"])
            choice["logprobs"] = {"content": [{**chosen, "top_logprobs": top[: body.get("top_logprobs", 0)]}]}
        words = len(text) // 4
        written = len(message["content"] or message["refusal"]) // 4 + 1
        return {
            "id": f"stand-in-{name[:12]}",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [choice],
            "usage": {
                "prompt_tokens": words,
                "completion_tokens": written,
                "total_tokens": words + written,
            },
        }

    def label_probabilities(self, text: str) -> dict[str, float] | None:
        """P(A), P(B), P(C) for a request's text, None if it does not hold a fenced prompt and two answers."""
        parts = dict(_FENCED.findall(text))
        if set(parts) != {"prompt", "answer_a", "answer_b"}:
            return None
        prompt, a, b = parts["prompt"], parts["answer_a"], parts["answer_b"]
        lead = (
            self.manner.sharpness * (self._view(prompt, a) - self._view(prompt, b)) + self.manner.first_bias
        )
        logits = {"A": lead / 2, "B": -lead / 2, "C": self.manner.tie_logit}
        total = sum(math.exp(logit) for logit in logits.values())
        return {label: math.exp(logit) / total for label, logit in logits.items()}

    def _view(self, prompt: str, answer: str) -> float:
        """The quality of an answer as the stand-in sees it: its noise belongs to the answer, not the order."""
        noise = NormalDist().inv_cdf(min(max(self._drawn(prompt, answer), 1e-12), 1 - 1e-12))
        return self.quality(prompt, answer) + self.manner.noise * noise


def error(
    status: int, message: str, *, code: str | None = None, headers: dict[str, str] | None = None
) -> Any:
    """A failure as the OpenAI API words it."""
    from fastapi.responses import JSONResponse

    return JSONResponse({"error": {"message": message, "type": "error", "code": code}}, status, headers)


def token_logprob(token: str, probability: float) -> dict[str, Any]:
    return {"token": token, "logprob": math.log(max(probability, 1e-30)), "bytes": list(token.encode())}


async def _one(part: bytes) -> AsyncIterator[bytes]:
    yield part
    await asyncio.sleep(0)  # the part is sent; the server then finds the body too short and cuts
