"""How far an annotator has come. Cheap enough to be shown with every item, on a million of them too."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, func, select

from labeling.queue.claim import new_to
from labeling.queue.slots import open_
from labeling.schema import Assignment, Comparison, Label
from labeling.store import Store

COUNTED = 2000  # up to so many open comparisons are counted each time
FRESH_SECONDS = 60.0  # how long the number of more than that is remembered
RECENT = 50  # labels that tell the pace

_open_counts: WeakKeyDictionary[Engine, tuple[float, int]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Progress:
    today: int  # items answered since midnight UTC
    total: int  # answered and left
    left_for_me: int  # at most: others may take them first
    seconds_per_item: float | None  # median of the latest
    by_state: dict[str, int]  # assignments


def progress(store: Store, annotator_id: int, *, now: datetime | None = None) -> Progress:
    """The annotator's progress of the day and of all that is open to them."""
    midnight = (now or datetime.now(UTC)).replace(hour=0, minute=0, second=0, microsecond=0)
    mine = Label.annotator_id == annotator_id
    today = select(func.count()).where(mine, Label.created_at >= midnight, Label.supersedes_id.is_(None))
    states = (
        select(Assignment.state, func.count())
        .where(Assignment.annotator_id == annotator_id)
        .group_by(Assignment.state)
    )
    recent = select(Label.seconds).where(mine).order_by(Label.created_at.desc()).limit(RECENT)
    with store.engine.connect() as connection:
        by_state = dict(connection.execute(states).tuples().all())
        seconds = [one for one in connection.scalars(recent) if one is not None]
        left = by_state.get("leased", 0) + count_open(connection, annotator_id)
        return Progress(
            today=connection.execute(today).scalar_one(),
            total=by_state.get("submitted", 0) + left,
            left_for_me=left,
            seconds_per_item=median(seconds) if seconds else None,
            by_state=by_state,
        )


def count_open(connection: Connection, annotator_id: int) -> int:
    """How many open comparisons the annotator has not had; where there are many, how many are open at all."""
    first = select(Comparison.id).where(open_(Comparison)).limit(COUNTED + 1).subquery()
    some = connection.execute(select(func.count()).select_from(first)).scalar_one()
    if some > COUNTED:
        return count_all_open(connection)
    mine = select(func.count()).where(open_(Comparison), new_to(annotator_id, Comparison))
    return connection.execute(mine).scalar_one()


def count_all_open(connection: Connection) -> int:
    at, count = _open_counts.get(connection.engine, (0.0, 0))
    if not at or time.monotonic() - at > FRESH_SECONDS:
        count = connection.execute(select(func.count()).where(open_(Comparison))).scalar_one()
        _open_counts[connection.engine] = time.monotonic(), count
    return count
