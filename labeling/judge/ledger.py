"""The ledger of paid calls: what is sent is written first, what came back is written before it is read.

A call is named by the hash of everything that shapes its answer, so a call with an answer is never sent again,
by this run or a later one. Each attempt is a row: `intent` (about to be sent), `answered`, `failed` (the
endpoint said no, nothing to pay) or `uncertain` (sent, and the reply lost: by a kill, a cut, a timeout).
All functions take a session in a write transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from labeling.hashing import content_hash
from labeling.schema import JudgeCall, now


@dataclass(frozen=True)
class Call:
    """A request to an endpoint. `body` is what is sent; `sample` tells apart repeated draws of one request."""

    base_url: str
    body: dict[str, Any]  # model, messages, sampling parameters; never a key or a header
    sample: int = 0

    @property
    def request(self) -> dict[str, Any]:
        return {"base_url": self.base_url, "sample": self.sample, **self.body}

    @property
    def key(self) -> str:
        return content_hash(self.request)


def answer(session: Session, key: str) -> dict[str, Any] | None:
    """The stored reply to the call named `key`, or None."""
    return session.scalar(select(JudgeCall.reply).where(JudgeCall.key == key, JudgeCall.state == "answered"))


def claim(session: Session, call: Call, key: str) -> int | None:
    """Write the intent to send `call`, to be committed before sending. Returns the attempt's number, or None
    if another job is asking this very call at this moment."""
    last = session.execute(
        select(JudgeCall.attempt, JudgeCall.state)
        .where(JudgeCall.key == key)
        .order_by(JudgeCall.attempt.desc())
        .limit(1)
    ).first()
    if last is not None and last.state == "intent":
        return None
    attempt = last.attempt + 1 if last is not None else 1
    session.add(JudgeCall(key=key, attempt=attempt, request=call.request))
    return attempt


def record_reply(session: Session, key: str, attempt: int, reply: dict[str, Any]) -> None:
    _close(session, key, attempt, state="answered", reply=reply, answered_at=now())


def record_failure(
    session: Session, key: str, attempt: int, state: Literal["failed", "uncertain"], error: str
) -> None:
    _close(session, key, attempt, state=state, error=error)


def mark_uncertain(session: Session, base_url: str, model: str) -> int:
    """Intents left by a job of this judge that was killed become `uncertain`. Returns how many."""
    rows = session.execute(select(JudgeCall.id, JudgeCall.request).where(JudgeCall.state == "intent"))
    left = [i for i, request in rows if (request["base_url"], request["model"]) == (base_url, model)]
    for i in left:  # as many as were in flight: few
        session.execute(
            update(JudgeCall)
            .where(JudgeCall.id == i)
            .values(state="uncertain", error="the job ended before the reply was stored")
        )
    return len(left)


def _close(session: Session, key: str, attempt: int, **values: Any) -> None:
    session.execute(
        update(JudgeCall).where(JudgeCall.key == key, JudgeCall.attempt == attempt).values(**values)
    )
