"""What the next item costs on a long queue against a short one, on SQLite.

python -m benchmarks.next_item [--quick] --json FILE
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from statistics import median
from typing import Any

from sqlalchemy import insert

from benchmarks.record import Figure, run
from labeling.hashing import content_hash
from labeling.queue.claim import claim
from labeling.queue.settings import Policy, QueueSettings, save_settings
from labeling.queue.slots import shuffle_of
from labeling.queue.submit import Answer, submit
from labeling.schema import Comparison, ComparisonSide, Completion, Prompt
from labeling.store import Store

POLICIES: tuple[Policy, ...] = ("random", "uncertainty", "judge_doubt")
OVERLAP = 2
CLAIMS = 150
PAGE = 20_000


def next_item_growth(few: int = 10_000, many: int = 1_000_000) -> dict[str, float]:
    """The median seconds of a claim on `few` and on `many` comparisons by each policy, and the largest ratio."""
    with tempfile.TemporaryDirectory() as folder:
        stores = [filled(f"{folder}/{count}.db", count) for count in (few, many)]
        figures = claim_growth(*stores)
        for store in stores:
            store.engine.dispose()
    return figures


def claim_growth(few: Store, many: Store) -> dict[str, float]:
    """`next_item_growth` of two stores that are there.

    The claims alternate between them, so that whatever else the machine does slows both alike.
    """
    figures: dict[str, float] = {}
    stores = (few, many)
    for policy in POLICIES:
        seconds: list[list[float]] = [[], []]
        for store in stores:
            save_settings(store, QueueSettings(policy=policy, overlap=OVERLAP))
        for _ in range(CLAIMS):
            for store, taken in zip(stores, seconds, strict=True):
                taken.append(time_claim(store))
        figures |= {f"{policy}.{name}_s": median(s) for name, s in zip(("few", "many"), seconds, strict=True)}
    growth = max(figures[f"{policy}.many_s"] / figures[f"{policy}.few_s"] for policy in POLICIES)
    return figures | {"next_item_growth": growth}


def time_claim(store: Store) -> float:
    """Claim and answer one item; how long the claim took."""
    me = store.annotator("scripted-clock", "scripted")
    begun = time.perf_counter()
    assigned = claim(store, me)
    seconds = time.perf_counter() - begun
    if assigned is None:
        raise RuntimeError("the queue ended before its time")
    submit(store, assigned.token, me, Answer("tie"), key="k")
    return seconds


def filled(path: str, count: int) -> Store:
    """A store with so many comparisons of small texts, ten to a prompt."""
    store = Store.open(path)
    with store.begin() as session:
        for table, rows in (
            (Prompt, prompts(count)),
            (Completion, completions(count)),
            (Comparison, comparisons(count)),
            (ComparisonSide, sides(count)),
        ):
            while page := list(islice(rows, PAGE)):
                session.execute(insert(table.__table__), page)
    return store


def prompts(count: int) -> Iterator[dict[str, Any]]:
    for i in range(count // 10 + 1):
        yield {"id": i + 1, "hash": str(i), "messages": [{"role": "user", "content": f"question {i}"}]}


def completions(count: int) -> Iterator[dict[str, Any]]:
    for i in range(2 * (count // 10 + 1)):
        answer = [{"role": "assistant", "content": f"answer {i}"}]
        yield {"id": i + 1, "prompt_id": i // 2 + 1, "hash": str(i), "messages": answer}


def comparisons(count: int) -> Iterator[dict[str, Any]]:
    for i in range(count):
        key = content_hash(i)
        place = shuffle_of(key)
        yield {
            **{"id": i + 1, "key": key, "prompt_id": i // 10 + 1, "shuffle": place, "slots_left": OVERLAP},
            **{"uncertainty": place % 1000 / 1000, "doubt": place % 777 / 777},
        }


def sides(count: int) -> Iterator[dict[str, Any]]:
    for i in range(count):
        for position in (0, 1):
            completion = 2 * (i // 10) + position + 1
            yield {"comparison_id": i + 1, "position": position, "completion_id": completion}


def measure(quick: bool) -> dict[str, Figure]:
    return dict(next_item_growth(many=100_000 if quick else 1_000_000))


if __name__ == "__main__":
    run("next_item", "The next item on a long queue against a short one", measure)
