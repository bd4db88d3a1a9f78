"""Scores from a service over HTTP: POST {"conversations": [[{role, content}, ...], ...]} -> {"scores": [...]}."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from reward.errors import RewardError
from reward.scorer import Conversation, checked

KEY = "ALIGN_REWARD_KEY"  # environment variable; sent as a bearer token if it is set
TRY_AGAIN = {408, 429, 500, 502, 503, 504}
LONGEST_REPLY = 1 << 24  # bytes


class RemoteScorer:
    """A scoring service as a Scorer. Asked `batch` conversations at a time, so that no request grows without bound.

    Timeouts (seconds), refused connections and busy services are tried again, `attempts` times in all, first after
    about `wait` seconds, then twice that, and so on.
    """

    def __init__(
        self, url: str, *, timeout: float = 60.0, attempts: int = 5, wait: float = 1.0, batch: int = 64
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RewardError(f"reward service {url!r}: write its address as http://host:port/path")
        if parts.username or parts.password:
            raise RewardError(
                f"no user or password in the address of the reward service: put a key in the variable {KEY}"
            )
        self.url, self.timeout, self.batch = url, timeout, batch
        self.retrying = Retrying(
            stop=stop_after_attempt(attempts),
            wait=wait_exponential_jitter(initial=wait, max=30.0, jitter=wait / 4),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        self.opener = urllib.request.build_opener(_NoRedirect)

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(conversations), self.batch):
            scores += self.ask(conversations[start : start + self.batch])
        return scores

    def ask(self, conversations: Sequence[Conversation]) -> list[float]:
        """The scores of one request. Raises RewardError if there are none after every attempt."""
        body = json.dumps({"conversations": [list(c) for c in conversations]}).encode()
        try:
            reply = self.retrying(self._post, body)
        except (OSError, http.client.HTTPException) as error:
            raise RewardError(f"reward service {self.url}: {_in_words(error)}") from error
        try:
            scores = json.loads(reply)["scores"]
        except (ValueError, KeyError, TypeError):
            raise RewardError(
                f'reward service {self.url} replied {reply[:80]!r}, not {{"scores": [...]}}'
            ) from None
        return checked(scores, len(conversations), f"reward service {self.url}")

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY, "").strip():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, body, headers)  # noqa: S310  http or https: see __init__
        with self.opener.open(request, timeout=self.timeout) as reply:
            return bytes(reply.read(LONGEST_REPLY))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it would turn POST into GET, and take the key to another host."""

    def redirect_request(self, *arguments: Any, **keywords: Any) -> None:
        return None


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in TRY_AGAIN
    return isinstance(error, OSError | http.client.HTTPException)


def _in_words(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        advice = {401: f"; is {KEY} right?", 403: f"; is {KEY} right?", 404: "; is the path right?"}
        return f"HTTP {error.code} {error.reason}{advice.get(error.code, '')}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return f"no answer ({reason or type(reason).__name__}): is it running, and the address right?"
