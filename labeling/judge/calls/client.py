"""One attempt at one call, and the one place that says what an endpoint's failure means for the job."""

from __future__ import annotations

import asyncio
import json
import math
import os
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from labeling.errors import LabelingError
from labeling.judge.config import JudgeConfig

if TYPE_CHECKING:
    import openai

CONNECT_SECONDS = 10.0


class CallFailed(Exception):
    """An attempt that brought no reply.

    `paid`: "no" if the endpoint said so or was never reached, "perhaps" if it was sent and the reply lost.
    `then`: "retry" (it may go better next time), "item" (this request will never do), "unreachable", or
    "job" (no request will do: wrong key, unknown model); the message is then fit for the user.
    """

    def __init__(
        self,
        message: str,
        *,
        then: Literal["retry", "item", "unreachable", "job"],
        paid: Literal["no", "perhaps"] = "no",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.then = then
        self.paid = paid
        self.retry_after = retry_after


class JudgeClient:
    """Sends chat completions to the endpoint of `config`. Use as an async context manager.

    Raises LabelingError if the key's environment variable is not set.
    """

    def __init__(self, config: JudgeConfig) -> None:
        import openai

        self._config = config
        self._key = read_key(config)
        # only for connecting: the library's other limits are for each piece of a reply, ours is for the whole
        timeout = openai.Timeout(None, connect=min(CONNECT_SECONDS, config.timeout_seconds))
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url,
            # without a key of its own the client would send OPENAI_API_KEY's to whatever endpoint this is
            api_key=self._key or "none-needed",
            max_retries=0,  # each paid attempt is a row in the ledger: retries are the job's
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(
                timeout=timeout,
                trust_env=not is_loopback(config.base_url),  # a proxy cannot reach this machine's loopback
            ),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def send(self, body: dict[str, Any]) -> dict[str, Any]:
        """The reply's JSON as it came ({"unreadable": text} if it is no JSON object). Raises CallFailed."""
        import httpx2
        import openai

        seconds = self._config.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                # by its path: the reply is stored as it came, so nothing is to be gained from typing it
                raw = await self._client.post("/chat/completions", body=body, cast_to=httpx2.Response)
            text = self._without_key(raw.text)
        except TimeoutError:
            raise CallFailed(f"no reply within {seconds:g} s", then="retry", paid="perhaps") from None
        except openai.OpenAIError as error:
            raise self._explain(error) from None
        try:
            reply = json.loads(text)
            json.dumps(
                reply, ensure_ascii=False, allow_nan=False
            ).encode()  # half characters cannot be stored
        except (ValueError, RecursionError):
            reply = None
        return reply if isinstance(reply, dict) else {"unreadable": text}

    def _explain(self, error: openai.OpenAIError) -> CallFailed:
        """Retryable or not, paid or not, and in words."""
        import openai

        url, model = self._config.base_url, self._config.model
        if isinstance(error, openai.APIStatusError):
            return self._explain_status(error)
        cause = type(error.__cause__).__name__
        if cause in ("ConnectError", "ConnectTimeout"):
            return CallFailed(
                f"cannot reach the judge at {url} ({error.__cause__ or cause}); "
                "is the server running, and the address right?",
                then="unreachable",
            )
        if isinstance(error, openai.APIConnectionError):
            return CallFailed(
                f"connection lost ({error.__cause__ or cause})".rstrip(), then="retry", paid="perhaps"
            )
        return CallFailed(f"{model} at {url}: {self._without_key(str(error))}", then="item", paid="perhaps")

    def _explain_status(self, error: openai.APIStatusError) -> CallFailed:
        url, model, status = self._config.base_url, self._config.model, error.status_code
        said = self._without_key(_first_words(error))
        if status in (401, 403):
            remedy = (
                f"is the key in {self._config.api_key_env} right?"
                if self._config.api_key_env
                else "it wants a key: set api_key_env to the name of the environment variable that holds it"
            )
            return CallFailed(f"the judge at {url} refuses the key ({status}: {said}); {remedy}", then="job")
        if status == 404:
            return CallFailed(
                f"the judge at {url} knows no model {model!r} ({status}: {said}); check model and base_url",
                then="job",
            )
        if status == 402 or getattr(error, "code", None) == "insufficient_quota":
            return CallFailed(f"the account at {url} is used up ({status}: {said})", then="job")
        if status in (400, 422) and "logprob" in said.lower():
            return CallFailed(
                f"{model} gives no logprobs ({said}); set verdict=json, or verdict=text", then="job"
            )
        if status in (408, 409, 425, 429) or status >= 500:
            return CallFailed(
                f"{status}: {said}", then="retry", retry_after=seconds_to_wait(error.response.headers)
            )
        return CallFailed(f"{status}: {said}", then="item")

    def _without_key(self, text: str) -> str:
        """An endpoint may echo the key in what it says, and what it says is stored."""
        return text.replace(self._key, "[key]") if self._key else text


def read_key(config: JudgeConfig) -> str | None:
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise LabelingError(
            f"the environment variable {config.api_key_env} is not set; it should hold the key for {config.base_url}"
        )
    return key


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def seconds_to_wait(headers: Any) -> float | None:
    """What a reply's Retry-After asks for: seconds, or a date (RFC 9110, 10.2.3). None if it asks nothing."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _first_words(error: openai.APIStatusError, limit: int = 200) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    words = " ".join(str(message or error.response.text or error.message).split())
    return words if len(words) <= limit else words[: limit - 1] + "…"
