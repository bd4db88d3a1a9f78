"""How many calls are in flight, and how many a minute."""

from __future__ import annotations

import asyncio
import time

import pytest

from alignment.demo.stand_in_judge import StandInJudge
from labeling.judge.calls.throttle import FIRST, Throttle
from labeling.judge.job import run_judge
from tests.labeling.judging import CLEAR, config, fill, politeness


def test_it_grows_with_answers_and_halves_once_for_each_round_that_is_pushed_back():
    throttle = Throttle(most=100, requests_per_minute=None, tokens_per_minute=None)
    assert throttle.width == FIRST == 8
    for _ in range(24):
        throttle.answered()
    assert throttle.width == 32
    sent = time.monotonic()
    throttle.pushed_back(sent, None)
    throttle.pushed_back(sent, None)  # of the same round: it says nothing new
    assert throttle.width == 16
    for _ in range(16):
        throttle.answered()
    assert throttle.width == pytest.approx(17, abs=0.1)  # one a round from now on
    for _ in range(20):
        throttle.pushed_back(time.monotonic(), None)
    assert throttle.width == 1
    for _ in range(10_000):
        throttle.answered()
    assert throttle.width == 100


def test_no_more_in_flight_than_it_is_wide():
    async def scene():
        throttle = Throttle(most=3, requests_per_minute=None, tokens_per_minute=None)
        stopping, now, most = asyncio.Event(), 0, 0

        async def call():
            nonlocal now, most
            async with throttle.slot(stopping):
                now += 1
                most = max(most, now)
                await asyncio.sleep(0.001)
                now -= 1

        await asyncio.gather(*(call() for _ in range(30)))
        return most

    assert asyncio.run(scene()) == 3


def test_all_wait_for_as_long_as_one_was_asked_to_and_the_end_of_the_job_ends_it():
    async def scene():
        throttle = Throttle(most=3, requests_per_minute=None, tokens_per_minute=None)
        stopping = asyncio.Event()
        throttle.pushed_back(time.monotonic(), 30.0)
        waiting = asyncio.create_task(throttle.turn(1, stopping))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        stopping.set()
        await waiting

    asyncio.run(asyncio.wait_for(scene(), 5))


def test_tokens_a_minute():
    """A minute's worth at once, and the rest as it comes in: 600 a minute are 10 a second."""

    async def scene():
        throttle = Throttle(most=3, requests_per_minute=None, tokens_per_minute=600)
        stopping, begun = asyncio.Event(), time.monotonic()
        await throttle.turn(600, stopping)
        await throttle.turn(3, stopping)
        return time.monotonic() - begun

    assert asyncio.run(scene()) > 0.25


def test_it_settles_at_what_the_endpoint_bears(sqlite_store):
    """A limit that the judge was not told of: it finds it by being turned down, and everything is labelled."""
    fill(sqlite_store, 5)
    with StandInJudge(politeness, manner=CLEAR, per_second=3) as server:
        report = run_judge(sqlite_store, config(server, max_attempts=30))
        log = server.log
    assert report.outcomes == {"verdict": 5}
    assert log.over_limit == report.calls.failed > 0
    assert set(log.answered.values()) == {1}
