"""Answers from any OpenAI-compatible endpoint: text in, text out, for policies whose weights are elsewhere."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from rollout.endpoint import Endpoint, is_loopback, read_key, seconds_to_wait
from rollout.errors import RolloutError
from rollout.types import Sampling

Message = dict[str, str]
CONNECT_SECONDS = 10.0
LONGEST_WAIT = 600.0  # seconds; an endpoint that asks for more ends the run, which a rerun continues
PARAMETERS = ("max_tokens", "seed", "n", "temperature", "top_p", "top_k")
PASSING = {408, 409, 425, 429}  # and 5xx


@dataclass(frozen=True)
class Text:
    """One answer as the endpoint gave it. finish_reason: "stop", "length", "content_filter", ..."""

    text: str
    finish_reason: str


@dataclass(frozen=True)
class Answers:
    """The answers to one prompt and the tokens that the endpoint says they took; or why there are none."""

    texts: tuple[Text, ...]
    tokens: int
    failure: str | None = None


class _Passing(Exception):
    """An attempt that failed and may succeed later."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class _Unfit(Exception):
    """A request that this endpoint will never answer. `parameter` is what it objects to, if it says so."""

    def __init__(self, message: str, parameter: str | None) -> None:
        super().__init__(message)
        self.parameter = parameter


class OpenAIEngine:
    """A model behind an OpenAI-compatible endpoint. It gives no token ids, so it cannot serve PPO.

    Parameters that not every endpoint knows (`n`, `seed`, `max_tokens` by this name, a temperature at all) are given
    up or replaced once one refuses them.
    """

    def __init__(self, model: str, endpoint: Endpoint) -> None:
        """Raises RolloutError if the key's environment variable is not set or the address is none."""
        if urlsplit(endpoint.base_url).scheme not in ("http", "https"):
            raise RolloutError(f"base_url {endpoint.base_url!r}: write it as http://host:port/v1")
        self.model = model
        self.endpoint = endpoint
        self._key = read_key(endpoint)
        self._reached = False
        self._limit = "max_tokens"
        self._refused: set[str] = set()  # optional parameters that the endpoint does not take

    def answers(
        self, prompts: Sequence[Sequence[Message]], n: int, sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Answers]]:
        """(index of the prompt, its `n` answers), in the order in which they are complete.

        Raises RolloutError where no request will do (wrong key, unknown model, nobody there), and where one has
        failed `max_attempts` times for want of a working endpoint.
        """
        with asyncio.Runner() as runner:
            stream = self._stream(zip(prompts, seeds, strict=True), n, sampling)
            try:
                while (item := runner.run(_next(stream))) is not None:
                    yield item
            finally:
                runner.run(stream.aclose())

    async def _stream(
        self, prompts: Iterable[tuple[Sequence[Message], int]], n: int, sampling: Sampling
    ) -> AsyncGenerator[tuple[int, Answers]]:
        waiting = enumerate(prompts)
        under_way: set[asyncio.Task[tuple[int, Answers]]] = set()
        client = self._client()
        try:
            while True:
                while len(under_way) < self.endpoint.concurrency and (item := next(waiting, None)):
                    index, (prompt, seed) = item
                    work = self._answer(client, index, list(prompt), n, sampling, seed)
                    under_way.add(asyncio.create_task(work))
                if not under_way:
                    return
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda t: t.exception() is not None):  # what is paid for first
                    yield task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            await client.close()

    async def _answer(
        self, client: Any, index: int, prompt: list[Message], n: int, sampling: Sampling, seed: int
    ) -> tuple[int, Answers]:
        texts: list[Text] = []
        tokens = 0
        try:
            while len(texts) < n:  # an endpoint may give fewer than it is asked for
                found, spent = await self._ask(client, prompt, n - len(texts), sampling, seed + len(texts))
                texts += found
                tokens += spent
        except _Unfit as unfit:
            return index, Answers((), tokens, failure=str(unfit))
        except _Passing as failure:
            raise RolloutError(
                f"{self.endpoint.base_url} failed {self.endpoint.max_attempts} times, the last time with: {failure}; "
                "the same command goes on from here"
            ) from None
        return index, Answers(tuple(texts[:n]), tokens)

    async def _ask(
        self, client: Any, prompt: list[Message], n: int, sampling: Sampling, seed: int
    ) -> tuple[list[Text], int]:
        """One request's answers and their tokens, asked in the words that the endpoint knows."""
        while True:
            body = self._body(prompt, n, sampling, seed)
            retrying = AsyncRetrying(
                retry=retry_if_exception(lambda error: isinstance(error, _Passing)),
                stop=stop_after_attempt(self.endpoint.max_attempts),
                wait=_as_long_as_asked,
                reraise=True,
            )
            try:
                return await retrying(self._send, client, body)
            except _Unfit as unfit:
                if self._does_without(unfit.parameter, body):
                    continue
                if unfit.parameter in ("temperature", "top_p", "top_k"):
                    raise RolloutError(
                        f"{self.model} refuses sampling.{unfit.parameter} ({unfit}): leave it at its default"
                    ) from None
                raise

    def _body(self, prompt: list[Message], n: int, sampling: Sampling, seed: int) -> dict[str, Any]:
        optional: dict[str, Any] = {
            "temperature": sampling.temperature,  # also where it is 1: a server may have another default
            "top_p": sampling.top_p,
            "seed": seed,
            **({"n": n} if n > 1 else {}),
        }
        body = {name: value for name, value in optional.items() if name not in self._refused}
        if sampling.top_k:
            body["extra_body"] = {"top_k": sampling.top_k}
        return {"model": self.model, "messages": prompt, self._limit: sampling.max_new_tokens, **body}

    def _does_without(self, parameter: str | None, body: dict[str, Any]) -> bool:
        """Whether the refused request can be worded without `parameter`; from now on all are."""
        if parameter == "max_tokens" and parameter in body:
            self._limit = "max_completion_tokens"
            return True
        if parameter is None or parameter not in body or parameter == self._limit:
            return False
        if parameter in ("temperature", "top_p") and body[parameter] != 1:
            return False
        self._refused.add(parameter)
        return True

    def _client(self) -> Any:
        import openai

        url = self.endpoint.base_url
        timeout = openai.Timeout(None, connect=min(CONNECT_SECONDS, self.endpoint.timeout_seconds))
        return openai.AsyncOpenAI(
            base_url=url,
            # without a key of its own the client would send OPENAI_API_KEY's to whatever endpoint this is
            api_key=self._key or "none-needed",
            max_retries=0,  # tenacity retries, by what the endpoint asks for
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(timeout=timeout, trust_env=not is_loopback(url)),
        )

    async def _send(self, client: Any, body: dict[str, Any]) -> tuple[list[Text], int]:
        """What `read_reply` finds in the reply. Raises _Passing, _Unfit or RolloutError."""
        import openai

        seconds = self.endpoint.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                raw = await client.chat.completions.with_raw_response.create(**body)
        except TimeoutError:
            raise _Passing(f"no reply within {seconds:g} s") from None
        except openai.APIStatusError as error:
            self._reached = True
            raise self._refusal(error) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__
            if type(cause).__name__ in ("ConnectError", "ConnectTimeout") and not self._reached:
                raise RolloutError(
                    f"cannot reach {self.endpoint.base_url} ({cause}); is the server running, and the address right?"
                ) from None
            raise _Passing(f"connection lost ({cause or type(error).__name__})") from None
        except openai.OpenAIError as error:
            raise _Unfit(self._without_key(str(error)), None) from None
        self._reached = True
        return read_reply(raw.text)

    def _refusal(self, error: Any) -> Exception:
        """What an HTTP status means: wait, give up this prompt, or end the run."""
        url, status, variable = self.endpoint.base_url, error.status_code, self.endpoint.api_key_env
        body = error.body if isinstance(error.body, dict) else {}
        words = " ".join(str(body.get("message") or error.response.text or error.message).split())
        said = f"{status}: {self._without_key(words[:200])}"
        remedies = {
            401: f"is the key in {variable} right?"
            if variable
            else "it wants a key: set endpoint.api_key_env to the name of the variable that holds it",
            402: "the account is used up",
            404: f"does it know a model {self.model!r}? Check policy.path and endpoint.base_url",
        }
        remedies[403] = remedies[401]
        if "insufficient_quota" in (body.get("code"), body.get("type")):
            status = 402
        if status in remedies:
            return RolloutError(f"{url} refuses ({said}): {remedies[status]}")
        if status in PASSING or status >= 500:
            wait = seconds_to_wait(error.response.headers)
            if wait is not None and wait > LONGEST_WAIT:
                return RolloutError(
                    f"{url} asks to wait {wait:.0f} s ({said}); run the same command again then"
                )
            return _Passing(said, wait)
        parameter = body.get("param") or next(
            (p for p in PARAMETERS if re.search(rf"['\"`]{p}['\"`]", words)), None
        )
        return _Unfit(said, parameter)

    def _without_key(self, text: str) -> str:
        """An endpoint may echo the key in what it says, and what it says is shown and stored."""
        return text.replace(self._key, "[key]") if self._key else text


def read_reply(text: str) -> tuple[list[Text], int]:
    """The answers in a chat completion and the tokens they took. Raises _Passing for what is none."""
    try:
        reply = json.loads(text)
        texts = [
            Text(storable(choice["message"].get("content") or ""), str(choice.get("finish_reason") or "stop"))
            for choice in reply["choices"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        texts = []
    if not texts:
        raise _Passing(f"a reply that is no chat completion: {text[:80]!r}")
    usage = reply.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return texts, tokens if isinstance(tokens, int) else 0


def storable(text: str) -> str:
    """Half characters (lone surrogates) can be in no file and no database."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


_wait_longer_each_time = wait_random_exponential(multiplier=1.0, min=0.5, max=30.0)


def _as_long_as_asked(state: RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    asked = failure.retry_after if isinstance(failure, _Passing) else None
    return _wait_longer_each_time(state) if asked is None else asked


async def _next(stream: AsyncIterator[tuple[int, Answers]]) -> tuple[int, Answers] | None:
    return await anext(stream, None)
