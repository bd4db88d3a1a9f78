"""Asking: the ledger first, then the endpoint, within its limits and with retries that are each accounted for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from aiolimiter import AsyncLimiter
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from labeling.errors import LabelingError
from labeling.judge import ledger
from labeling.judge.client import CallFailed, JudgeClient
from labeling.judge.config import JudgeConfig
from labeling.judge.ledger import Call
from labeling.judge.writer import StoreWriter

_wait_longer_each_time = wait_exponential_jitter(initial=0.5, max=30.0, jitter=1.0)


class Stopped(Exception):
    """The job is ending: nothing more is sent, and this comparison stays as it was."""


@dataclass
class CallCounts:
    """What became of the calls of one run."""

    attempts: int = 0  # requests sent
    answered: int = 0
    reused: int = 0  # answers taken from the ledger, at no cost
    failed: int = 0  # attempts that the endpoint turned down
    uncertain: int = 0  # attempts sent whose reply was lost, those of a killed job included
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Asker:
    """Gives the reply to a call, buying it at most once.

    Once `stopping` is set, attempts in flight end and are recorded, and nothing more is sent.
    """

    def __init__(
        self, config: JudgeConfig, client: JudgeClient, write: StoreWriter, stopping: asyncio.Event
    ) -> None:
        self.counts = CallCounts()
        self._config = config
        self._client = client
        self._write = write
        self._stopping = stopping
        self._in_flight: dict[str, asyncio.Event] = {}  # by key: two comparisons may hold the same texts
        per_minute = config.requests_per_minute
        self._limiter = (
            AsyncLimiter(max(1.0, per_minute / 60), max(1.0, 60 / per_minute)) if per_minute else None
        )

    async def reply(self, call: Call) -> dict[str, Any]:
        """The reply to `call` as the endpoint sent it, from the ledger if it is there.

        Raises CallFailed after the last attempt, Stopped, or LabelingError if the job cannot go on.
        """
        key = call.key
        while key in self._in_flight:
            await self._in_flight[key].wait()
        ended = self._in_flight[key] = asyncio.Event()
        try:
            known = await self._write(partial(ledger.answer, key=key))
            if known is not None:
                self.counts.reused += 1
                return known
            retrying = AsyncRetrying(
                retry=retry_if_exception(self._is_worth_retrying),
                stop=stop_after_attempt(self._config.max_attempts),
                wait=_as_long_as_asked,
                sleep=self._sleep,
                reraise=True,
            )
            return await retrying(self._attempt, call, key)
        except CallFailed as failure:
            if failure.then in ("unreachable", "job"):
                raise LabelingError(str(failure)) from None
            raise
        finally:
            del self._in_flight[key]
            ended.set()

    async def _attempt(self, call: Call, key: str) -> dict[str, Any]:
        await self._turn()
        if self._stopping.is_set():
            raise Stopped
        attempt = await self._write(partial(ledger.claim, call=call, key=key))
        if attempt is None:
            raise LabelingError(
                f"another job of {self._config.annotator} is at work on this store; let it finish first"
            )
        self.counts.attempts += 1
        try:
            reply = await self._client.send(call.body)
        except CallFailed as failure:
            await self._record_failure(key, attempt, failure)
            raise
        await self._write(partial(ledger.record_reply, key=key, attempt=attempt, reply=reply))
        self._count_reply(reply)
        return reply

    async def _record_failure(self, key: str, attempt: int, failure: CallFailed) -> None:
        state: Literal["failed", "uncertain"] = "uncertain" if failure.paid == "perhaps" else "failed"
        self.counts.uncertain += state == "uncertain"
        self.counts.failed += state == "failed"
        await self._write(
            partial(ledger.record_failure, key=key, attempt=attempt, state=state, error=str(failure))
        )

    def _count_reply(self, reply: dict[str, Any]) -> None:
        self.counts.answered += 1
        usage = reply.get("usage")
        for name in ("prompt_tokens", "completion_tokens"):
            tokens = usage.get(name) if isinstance(usage, dict) else None
            if isinstance(tokens, int):
                setattr(self.counts, name, getattr(self.counts, name) + tokens)

    def _is_worth_retrying(self, error: BaseException) -> bool:
        if not isinstance(error, CallFailed):
            return False
        # an address that never answered is a wrong address; one that did may come back
        return error.then == "retry" or (error.then == "unreachable" and self.counts.answered > 0)

    async def _turn(self) -> None:
        """Wait for the rate limit's next slot, or for the job's end."""
        if self._limiter is None:
            return
        slot = asyncio.ensure_future(self._limiter.acquire())
        end = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({slot, end}, return_when=asyncio.FIRST_COMPLETED)
        slot.cancel()
        end.cancel()

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def _as_long_as_asked(state: RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    asked = failure.retry_after if isinstance(failure, CallFailed) else None
    return _wait_longer_each_time(state) if asked is None else asked
