"""One simulated annotator of `benchmarks.labeling_load`: what a browser sends while a person labels.

The buttons of the annotator's page do not go through Gradio's event queue (`queue=False`): in a browser too,
pressing one is a single POST to run/predict, and its answer carries both the notice that the label is saved and
the next item, claimed and rendered. How long that takes is what the person waits.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from labeling.app.answers import BOTH_BAD
from labeling.app.form import MOST_ASPECTS
from labeling.app.identity import COOKIE
from labeling.writes import MOST_SIDES

PAGE = "/label/en/"
OPEN, SUBMIT = 0, 1  # the page's handlers, in the order in which `labeling.app.annotate` adds them
TOKEN, KEY, NOTICE = 0, 1, 4  # places in what a handler answers: `Form.components`
SAVED = 'class="said"'
KEEP_ALIVE = 4.0  # seconds; the server lets go of idle connections after 5, and a browser copes with the race


@dataclass
class Day:
    """What a person saw of the server."""

    opened: list[float] = field(default_factory=list)  # seconds until the page and its first item were there
    waited: list[float] = field(default_factory=list)  # seconds from each answer to the next item
    saved: int = 0  # answers that the page said are saved
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Pace:
    seconds: float  # the length of the day
    thinking: float  # mean seconds that a person takes over an item, exponentially distributed
    arriving: float  # within so many seconds all have come


async def label_all_day(url: str, cookie: str, pace: Pace, chance: random.Random) -> Day:
    """Open the page, then read, answer and wait for the next item until the day is over or nothing is left."""
    day = Day()
    limits = httpx.Limits(keepalive_expiry=KEEP_ALIVE)
    browser = httpx.AsyncClient(
        base_url=url,
        cookies={COOKIE: cookie},
        headers={"Origin": url},
        timeout=60,
        limits=limits,
        verify=False,
    )
    await asyncio.sleep(chance.uniform(0, pace.arriving))
    end = time.perf_counter() + pace.seconds
    async with browser:
        try:
            begun = time.perf_counter()
            (await browser.get(PAGE)).raise_for_status()
            shown = await press(browser, OPEN)
            day.opened.append(time.perf_counter() - begun)
            while shown[TOKEN]:
                thought = chance.expovariate(1 / pace.thinking)
                if time.perf_counter() + thought > end:
                    break
                await asyncio.sleep(thought)
                answer = filled_form(chance.choice([*range(1, 8), BOTH_BAD]), thought)
                begun = time.perf_counter()
                shown = await press(browser, SUBMIT, shown[TOKEN], shown[KEY], *answer)
                day.waited.append(time.perf_counter() - begun)
                if SAVED not in shown[NOTICE]:
                    raise Refused(shown[NOTICE])
                day.saved += 1
        except (httpx.HTTPError, Refused) as error:
            day.errors.append(f"{type(error).__name__}: {error}")
    return day


class Refused(Exception):
    """The page said something else than that the answer is saved."""


async def press(browser: httpx.AsyncClient, handler: int, *data: Any) -> list[Any]:
    """What a button's handler answers: the new values of the form's components."""
    body = {"data": data, "event_data": None, "fn_index": handler, "session_hash": "simulated"}
    answer = await browser.post(f"{PAGE}gradio_api/run/predict", json=body)
    answer.raise_for_status()
    shown: list[Any] = answer.json()["data"]
    return shown


def filled_form(step: int, seconds: float) -> list[Any]:
    """An answer as `labeling.app.form.Form.filled` has it: the scale, and nothing else given."""
    return [step, False, "", f"{seconds:.1f}", *[None] * MOST_SIDES, *[None] * (2 * MOST_ASPECTS)]
