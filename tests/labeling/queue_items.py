"""What the tests of the queue share: comparisons to hand out and people to hand them to."""

from __future__ import annotations

from sqlalchemy import select

from labeling.queue.claim import Assigned, claim
from labeling.queue.submit import Answer, Submitted, submit
from labeling.schema import Comparison
from labeling.store import Store
from labeling.views import NewComparison, NewCompletion

FIRST_SHOWN = Answer("preference", choice=0, strength=2)


def add_items(store: Store, count: int, sides: int = 2, priority: float = 0.0) -> list[int]:
    """The ids of so many new comparisons; the answer at stored position i is the letter i."""
    start = store.counts()["comparisons"]
    added = store.add_comparisons(
        NewComparison(
            [{"role": "user", "content": f"question {start + i}"}],
            [NewCompletion([{"role": "assistant", "content": letter}]) for letter in "ABCDEFGHI"[:sides]],
            priority=priority,
        )
        for i in range(count)
    )
    return [one.comparison_id for one in added if one.comparison_id is not None]


def people(store: Store, count: int) -> list[int]:
    return [store.annotator(f"person {i}", "human") for i in range(count)]


def claimed(store: Store, annotator: int, **more) -> Assigned:
    """What the annotator claims; there has to be something."""
    assigned = claim(store, annotator, **more)
    assert assigned is not None
    return assigned


def label_next(store: Store, annotator: int, answer: Answer = FIRST_SHOWN) -> tuple[Assigned, Submitted]:
    assigned = claimed(store, annotator)
    return assigned, submit(store, assigned.token, annotator, answer, key="first")


def slots(store: Store) -> dict[int, int]:
    """`slots_left` by comparison."""
    with store.begin() as session:
        rows = session.execute(select(Comparison.id, Comparison.slots_left)).tuples().all()
    return dict(rows)
