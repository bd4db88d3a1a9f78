"""The ledger of paid calls: what is sent is written first, what came back is written before it is read.

A call is named by the hash of everything that shapes its answer, so a call with an answer is never sent again,
by this run or a later one. Each attempt is a row: `intent` (about to be sent), `answered`, `failed` (the
endpoint said no, nothing to pay) or `uncertain` (sent, and the reply lost: by a kill, a cut, a timeout).
The row's cost is the most that the call can cost until the reply says what it did.

`answers`, `claim` and `close` serve many calls at once, in a write transaction, and give a result for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from labeling.hashing import content_hash
from labeling.schema import JudgeCall, now
from labeling.store import Store

_CALLS: Any = JudgeCall.__table__
_CLOSE = (
    update(_CALLS)
    .where(_CALLS.c.key == bindparam("of_key"), _CALLS.c.attempt == bindparam("of_attempt"))
    .values({name: bindparam(name) for name in ("state", "reply", "error", "cost", "answered_at")})
)


@dataclass(frozen=True)
class Call:
    """A request to an endpoint. `body` is what is sent; `sample` tells apart repeated draws of one request."""

    base_url: str
    body: dict[str, Any]  # model, messages, sampling parameters; never a key or a header
    sample: int = 0

    @property
    def request(self) -> dict[str, Any]:
        return {"base_url": self.base_url, "sample": self.sample, **self.body}

    @cached_property
    def key(self) -> str:
        return content_hash(self.request)


@dataclass(frozen=True)
class Intent:
    """An attempt about to be made. `most` is what it can cost at the most, None if there is no price."""

    call: Call
    most: int | None = None
    batch_id: int | None = None


@dataclass(frozen=True)
class End:
    """What became of an attempt."""

    key: str
    attempt: int
    state: Literal["answered", "failed", "uncertain"]
    reply: dict[str, Any] | None = None
    error: str = ""
    cost: int | None = None


def answers(session: Session, keys: Sequence[str]) -> list[dict[str, Any] | None]:
    """The stored replies to the calls named by `keys`, None for those that have none."""
    query = select(JudgeCall.key, JudgeCall.reply).where(
        JudgeCall.key.in_(keys), JudgeCall.state == "answered"
    )
    found: dict[str, Any] = dict(session.execute(query).tuples().all())
    return [found.get(key) for key in keys]


def answered(session: Session, keys: Iterable[str]) -> set[str]:
    """Which of these calls have an answer."""
    query = select(JudgeCall.key).where(JudgeCall.key.in_(list(keys)), JudgeCall.state == "answered")
    return set(session.scalars(query))


def claim(session: Session, intents: Sequence[Intent]) -> list[int | None]:
    """Write the intent to send these calls, to be committed before sending.

    Returns each attempt's number, None where another job is asking this very call at this moment.
    """
    query = select(JudgeCall.key, JudgeCall.attempt, JudgeCall.state).where(
        JudgeCall.key.in_([intent.call.key for intent in intents])
    )
    last = {
        key: (attempt, state) for key, attempt, state in session.execute(query.order_by(JudgeCall.attempt))
    }
    attempts: list[int | None] = []
    rows = []
    for intent in intents:
        attempt, state = last.get(intent.call.key, (0, ""))
        free = state != "intent"
        attempts.append(attempt + 1 if free else None)
        if free:
            last[intent.call.key] = (attempt + 1, "intent")
            rows.append(as_row(intent, attempt + 1))
    if rows:
        session.execute(insert(_CALLS), rows)
    return attempts


def as_row(intent: Intent, attempt: int) -> dict[str, Any]:
    call = intent.call
    return {
        "key": call.key,
        "attempt": attempt,
        "base_url": call.base_url,
        "model": call.body["model"],
        "cost": intent.most,
        "request": call.request,
        "batch_id": intent.batch_id,
    }


def close(session: Session, ends: Sequence[End]) -> list[None]:
    """Write down what became of attempts that were claimed."""
    session.execute(
        _CLOSE,
        [
            {
                "of_key": end.key,
                "of_attempt": end.attempt,
                "state": end.state,
                "reply": end.reply,
                "error": end.error,
                "cost": end.cost,
                "answered_at": now() if end.state == "answered" else None,
            }
            for end in ends
        ],
    )
    return [None] * len(ends)


def mark_uncertain(session: Session, base_url: str, model: str) -> int:
    """Intents left by a job of this judge that was killed become `uncertain`; how many. Not those in batches."""
    left = update(JudgeCall).where(
        JudgeCall.model == model,
        JudgeCall.base_url == base_url,
        JudgeCall.state == "intent",
        JudgeCall.batch_id.is_(None),
    )
    done: Any = session.execute(
        left.values(state="uncertain", error="the job ended before the reply was stored")
    )
    return int(done.rowcount)


def spent(store: Store, base_url: str, model: str, *, outstanding: bool = True) -> int:
    """What this judge has cost in this store so far, in picodollars; of lost replies the most they can have.

    So it is for calls that are outstanding, in batches that are open; without them what is sure.
    """
    query = select(func.coalesce(func.sum(JudgeCall.cost), 0)).where(
        JudgeCall.model == model, JudgeCall.base_url == base_url
    )
    if not outstanding:
        query = query.where(JudgeCall.state != "intent")
    with store.engine.connect() as connection:
        return int(connection.execute(query).scalar_one() or 0)
