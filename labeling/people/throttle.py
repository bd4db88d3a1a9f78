"""Slowing down those who guess passwords. The count is in the database: it holds for every process and restart."""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from math import ceil

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from labeling.errors import LabelingError
from labeling.people.changes import changes
from labeling.people.names import name_key
from labeling.people.secret import digest
from labeling.people.tables import LoginAttempt
from labeling.schema import as_utc, now
from labeling.store import Store

MOST_FAILURES = 10  # for a name, and for an address
WINDOW = timedelta(minutes=15)
KEPT = timedelta(days=1)


class SignInRefused(LabelingError):
    """Nobody is signed in: wrong words, or too many attempts, and then `wait` says for how many seconds."""

    def __init__(self, message: str, wait: int = 0) -> None:
        super().__init__(message)
        self.wait = wait


def begin_attempt(store: Store, name: str, address: str) -> int:
    """The id of a new attempt, to be ended by `end_attempt`. Raises SignInRefused when there were too many.

    It counts against the name from now on, so that many at once get no further than one after the other.
    Against the address it counts when it has failed: a whole office may sign in at nine o'clock.
    """
    moment = now()
    key, place = hashed(name), place_of(address)
    with changes(store) as session:
        session.execute(delete(LoginAttempt).where(LoginAttempt.at < moment - KEPT))
        forgiven = select(func.max(LoginAttempt.id)).where(
            LoginAttempt.name == key, LoginAttempt.ok.is_(True)
        )
        wait = max(
            seconds_left(
                session,
                moment,
                LoginAttempt.name == key,
                LoginAttempt.id > func.coalesce(forgiven.scalar_subquery(), 0),
                LoginAttempt.ok.is_not(True),
            ),
            seconds_left(session, moment, LoginAttempt.address == place, LoginAttempt.ok.is_(False)),
        )
        if wait:
            raise SignInRefused(
                f"too many failed attempts: try again in {ceil(wait / 60)} minute{'s' * (wait > 60)}", wait
            )
        attempt = LoginAttempt(name=key, address=place, at=moment, ok=None)
        session.add(attempt)
        session.flush()
        return attempt.id


def end_attempt(session: Session, attempt: int, *, ok: bool) -> None:
    """Record how an attempt ended. Success clears what was held against its name, not against its address."""
    session.execute(update(LoginAttempt).where(LoginAttempt.id == attempt).values(ok=ok))


def forgive(session: Session, name: str) -> None:
    """Clear what is held against a name: its owner has just shown themselves by a link."""
    session.add(LoginAttempt(name=hashed(name), address="", ok=True))


def seconds_left(session: Session, moment: datetime, *conditions: ColumnElement[bool]) -> int:
    """Until fewer than MOST_FAILURES of these attempts lie within the window; 0 if that is so already."""
    last = session.scalar(
        select(LoginAttempt.at)
        .where(LoginAttempt.at > moment - WINDOW, *conditions)
        .order_by(LoginAttempt.at.desc())
        .offset(MOST_FAILURES - 1)
        .limit(1)
    )
    return 0 if last is None else max(1, ceil((as_utc(last) + WINDOW - moment).total_seconds()))


def hashed(name: str) -> str:
    return digest(name_key(name))


def place_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that one customer is given of IPv6."""
    try:
        given = ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(given, IPv6Address):
        return str(given.ipv4_mapped or ip_network((given, 64), strict=False))
    return str(given)
