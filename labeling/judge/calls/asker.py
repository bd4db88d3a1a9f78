"""Asking: the ledger first, then the endpoint, within its limits and with retries that are each accounted for."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from labeling.errors import LabelingError
from labeling.judge.calls import ledger
from labeling.judge.calls.client import CallFailed, JudgeClient
from labeling.judge.calls.ledger import Call, End, Intent
from labeling.judge.calls.prices import Cost, most_tokens, usual_tokens
from labeling.judge.calls.purse import Purse
from labeling.judge.calls.throttle import Throttle
from labeling.judge.calls.writer import StoreWriter
from labeling.judge.config import JudgeConfig

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
        self,
        config: JudgeConfig,
        client: JudgeClient,
        write: StoreWriter,
        stopping: asyncio.Event,
        *,
        counts: CallCounts,
        purse: Purse,
        cost: Cost | None,
    ) -> None:
        self.counts = counts
        self._config = config
        self._client = client
        self._write = write
        self._stopping = stopping
        self._purse = purse
        self._cost = cost
        self._throttle = Throttle(config.concurrency, config.requests_per_minute, config.tokens_per_minute)
        self._in_flight: dict[str, asyncio.Event] = {}  # by key: two comparisons may hold the same texts
        self._reached = False

    async def reply(self, call: Call) -> dict[str, Any]:
        """The reply to `call` as the endpoint sent it, from the ledger if it is there.

        Raises CallFailed after the last attempt, Stopped, BudgetSpent, or LabelingError if the job cannot go on.
        """
        key = call.key
        while key in self._in_flight:
            await self._in_flight[key].wait()
            if (known := await self._known(key)) is not None:
                return known
        ended = self._in_flight[key] = asyncio.Event()
        try:
            if (known := await self._known(key)) is not None:
                return known
            retrying = AsyncRetrying(
                retry=retry_if_exception(self._is_worth_retrying),
                stop=stop_after_attempt(self._config.max_attempts),
                wait=_as_long_as_asked,
                sleep=self._sleep,
                reraise=True,
            )
            return await retrying(self._attempt, call)
        except CallFailed as failure:
            if failure.then in ("unreachable", "job"):
                raise LabelingError(str(failure)) from None
            raise
        finally:
            del self._in_flight[key]
            ended.set()

    async def _known(self, key: str) -> dict[str, Any] | None:
        known = await self._write(ledger.answers, key)
        self.counts.reused += known is not None
        return known

    async def _attempt(self, call: Call) -> dict[str, Any]:
        prompt, longest = most_tokens(call.body)
        most = self._cost(prompt, longest) if self._cost and longest is not None else None
        async with self._throttle.slot(self._stopping):
            await self._throttle.turn(usual_tokens(call.body) + (longest or 0), self._stopping)
            await self._purse.reserve(most)
            if self._stopping.is_set():
                await self._purse.settle(most, 0)
                raise Stopped
            try:
                attempt, outcome = await self._send(call, most)
            except BaseException:
                await self._purse.settle(most, most)
                raise
        # the endpoint has its place back while the ledger is written
        end = self._end(call, attempt, outcome, most)
        await self._write(ledger.close, end)
        await self._purse.settle(most, end.cost)
        if isinstance(outcome, CallFailed):
            raise outcome
        return outcome

    async def _send(self, call: Call, most: int | None) -> tuple[int, dict[str, Any] | CallFailed]:
        """The number of the attempt, and what came of it."""
        attempt = await self._write(ledger.claim, Intent(call, most))
        if attempt is None:
            raise LabelingError(
                f"another job of {self._config.annotator} is at work on this store; let it finish first"
            )
        self.counts.attempts += 1
        sent = time.monotonic()
        try:
            reply = await self._client.send(call.body)
        except CallFailed as failure:
            if failure.then == "retry":
                self._throttle.pushed_back(sent, failure.retry_after)
            elif failure.then != "item" and not self._is_worth_retrying(failure):
                self._stopping.set()  # no other call would do any better
            return attempt, failure
        self._throttle.answered()
        self._reached = True
        return attempt, reply

    def _end(self, call: Call, attempt: int, outcome: dict[str, Any] | CallFailed, most: int | None) -> End:
        """How the attempt ended and what it cost; a lost reply, or one that does not say, `most`."""
        if isinstance(outcome, CallFailed):
            if outcome.paid == "perhaps":
                self.counts.uncertain += 1
                return End(call.key, attempt, "uncertain", error=str(outcome), cost=most)
            self.counts.failed += 1
            return End(call.key, attempt, "failed", error=str(outcome), cost=None if most is None else 0)
        self.counts.answered += 1
        cost = most
        if tokens := usage_of(outcome):
            self.counts.prompt_tokens += tokens[0]
            self.counts.completion_tokens += tokens[1]
            cost = self._cost(*tokens) if self._cost else None
        return End(call.key, attempt, "answered", outcome, cost=cost)

    def _is_worth_retrying(self, error: BaseException) -> bool:
        if not isinstance(error, CallFailed):
            return False
        # an address that never answered is a wrong address; one that did may come back
        return error.then == "retry" or (error.then == "unreachable" and self._reached)

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def usage_of(reply: dict[str, Any]) -> tuple[int, int] | None:
    """(prompt tokens, reply tokens) as the endpoint counts them, None if it does not say."""
    usage = reply.get("usage")
    if not isinstance(usage, dict):
        return None
    tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    valid = all(type(n) is int and 0 <= n < 2**40 for n in tokens)  # what is stored must be storable
    return (tokens[0] or 0, tokens[1] or 0) if valid else None


def _as_long_as_asked(state: RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    asked = failure.retry_after if isinstance(failure, CallFailed) else None
    return _wait_longer_each_time(state) if asked is None else asked
