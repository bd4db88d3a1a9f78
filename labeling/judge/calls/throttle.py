"""How many calls may be in flight, and how many a minute: what the config allows and the endpoint bears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from aiolimiter import AsyncLimiter

FIRST = 8  # calls in flight to begin with
# seconds: a limit on requests is kept in every such stretch, not only over a minute. Much shorter, and what a busy
# moment left unused would be lost: the limiter wakes those that wait one by one.
BURST = 0.5


class Throttle:
    """Grows while the endpoint answers and halves where it pushes back (AIMD, Jacobson 1988).

    Until the first push-back each answer adds one call in flight; after it, each round of answers does.
    """

    def __init__(self, most: int, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self.most = most
        self.width = float(min(FIRST, most))
        self._in_flight = 0
        self._freed = asyncio.Condition()
        self._slow_start = True
        self._narrowed = 0.0  # when; calls sent before then say nothing new
        self._not_before = 0.0
        self._requests = None
        if requests_per_minute:
            stretch = max(BURST, 60 / requests_per_minute)
            self._requests = AsyncLimiter(requests_per_minute * stretch / 60, stretch)
        self._tokens = AsyncLimiter(tokens_per_minute, 60) if tokens_per_minute else None

    @asynccontextmanager
    async def slot(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        """One of the calls in flight. Waits for it, or for the job's end."""
        async with self._freed:
            while self._in_flight >= max(1, int(self.width)) and not stopping.is_set():
                await self._freed.wait()
            self._in_flight += 1
        try:
            yield
        finally:
            async with self._freed:
                self._in_flight -= 1
                self._freed.notify(2)  # the one freed, and one more if there is room for more by now

    async def turn(self, tokens: int, stopping: asyncio.Event) -> None:
        """Wait until the limits let a request of so many tokens go, or for the job's end."""
        while (wait := self._not_before - time.monotonic()) > 0 and not stopping.is_set():
            await _first(asyncio.sleep(wait), stopping)
        for limiter, wanted in ((self._requests, 1.0), (self._tokens, float(tokens))):
            if limiter is not None:
                amount = min(wanted, limiter.max_rate)
                if limiter.has_capacity(amount):
                    await limiter.acquire(amount)
                else:
                    await _first(limiter.acquire(amount), stopping)

    def answered(self) -> None:
        self.width = min(float(self.most), self.width + (1 if self._slow_start else 1 / self.width))

    def pushed_back(self, sent: float, wait: float | None) -> None:
        """The endpoint turned down a call sent at `sent` (time.monotonic) for want of room; hold all for `wait`."""
        self._not_before = max(self._not_before, time.monotonic() + (wait or 0.0))
        if sent >= self._narrowed:
            self._slow_start = False
            self.width = max(1.0, self.width / 2)
            self._narrowed = time.monotonic()


async def _first(waited: Awaitable[None], stopping: asyncio.Event) -> None:
    """Await whichever comes first: `waited`, or the job's end."""
    slot = asyncio.ensure_future(waited)
    end = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({slot, end}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        slot.cancel()
        end.cancel()
