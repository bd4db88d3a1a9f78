"""Signing in and out. A session is a random token in the browser's cookie and its hash in the database."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, select, update
from sqlalchemy.orm import Session

from labeling.people.audit import add_entry
from labeling.people.changes import changes, check_may_change, existing
from labeling.people.names import is_invisible, name_key
from labeling.people.person import Person, select_people
from labeling.people.secret import digest, is_password, new_token
from labeling.people.tables import Account, WebSession
from labeling.people.throttle import SignInRefused, begin_attempt, end_attempt
from labeling.schema import Annotator, as_utc, now
from labeling.store import Store

__all__ = ["SignInRefused", "open_session", "person_of_session", "revoke_all", "sign_in", "sign_out"]

LIFETIME = timedelta(days=14)  # since it was last used
EXTEND_AFTER = timedelta(hours=1)  # so that reading pages does not write each time
WRONG = "the name or the password is wrong"


def sign_in(store: Store, name: str, password: str, address: str) -> str:
    """The token of a new session. Hashes: call it off the event loop. `address` is the client's.

    Raises SignInRefused: in the same words and after the same time whether the name is unknown, the password
    wrong or the account shut, and without looking at the password after too many failures.
    """
    attempt = begin_attempt(store, name, address)
    account_id, stored = password_of(store, name)
    right = is_password(password, stored)
    with changes(store) as session:
        # the password may have been reset, or the account shut, while this one was being checked
        right = right and account_id is not None and still_holds(session, account_id, stored)
        end_attempt(session, attempt, ok=right)
        if right and account_id is not None:
            return add_session(session, account_id)
    raise SignInRefused(WRONG)


def password_of(store: Store, name: str) -> tuple[int | None, str | None]:
    """Whose name this is and the hash of their password, or nothing. Any text may be asked for."""
    if any(map(is_invisible, name)):  # nobody's, and not all of it could be sent to PostgreSQL
        return None, None
    query = select(Account.annotator_id, Account.password_hash).where(Account.name_key == name_key(name))
    with store.engine.connect() as connection:
        row = connection.execute(query).first()
    return (None, None) if row is None else (row.annotator_id, row.password_hash)


def still_holds(session: Session, person_id: int, stored: str | None) -> bool:
    """Whether this person may sign in, and by the password that was checked."""
    query = select(Account.annotator_id).join(Annotator, Annotator.id == Account.annotator_id)
    held = query.where(Annotator.id == person_id, Annotator.active, Account.password_hash == stored)
    return session.scalar(held) is not None


def open_session(store: Store, person_id: int) -> str:
    """A session for somebody who has just shown themselves otherwise: by a link, or by their old password."""
    with changes(store) as session:
        if not existing(session, person_id).active:
            raise SignInRefused(WRONG)
        return add_session(session, person_id)


def add_session(session: Session, person_id: int) -> str:
    moment, token = now(), new_token()
    session.execute(delete(WebSession).where(WebSession.expires_at < moment))
    session.add(
        WebSession(
            token_hash=digest(token),
            annotator_id=person_id,
            created_at=moment,
            expires_at=moment + LIFETIME,
        )
    )
    return token


def person_of_session(store: Store, token: str) -> Person | None:
    """Who is behind a session's token, if it is alive; being asked for keeps it alive."""
    moment = now()
    query = (
        select_people()
        .add_columns(WebSession.expires_at)
        .join(WebSession, WebSession.annotator_id == Annotator.id)
        .where(alive(token, moment), Annotator.active)
    )
    with store.engine.connect() as connection:
        row = connection.execute(query).first()
    if row is None:
        return None
    *person, expires_at = row
    if as_utc(expires_at) < moment + LIFETIME - EXTEND_AFTER:
        with store.begin() as session:
            session.execute(
                update(WebSession).where(alive(token, moment)).values(expires_at=moment + LIFETIME)
            )
    return Person(*person)


def sign_out(store: Store, token: str) -> None:
    """End one session."""
    with store.begin() as session:
        session.execute(update(WebSession).where(alive(token, now())).values(revoked_at=now()))


def revoke_all(store: Store, person_id: int, *, by: int | None) -> None:
    """End every session of a person: one's own, or those of somebody whom `by` may change."""
    with changes(store) as session:
        person = existing(session, person_id)
        if by != person_id:
            check_may_change(session, by, person.role)
        end_sessions(session, person_id)
        add_entry(session, by, "person.sign_out", person.name)


def end_sessions(session: Session, person_id: int) -> None:
    """As part of a change after which whoever is signed in must show themselves again."""
    mine = (WebSession.annotator_id == person_id, WebSession.revoked_at.is_(None))
    session.execute(update(WebSession).where(*mine).values(revoked_at=now()))


def alive(token: str, moment: datetime) -> ColumnElement[bool]:
    return and_(
        WebSession.token_hash == digest(token),
        WebSession.revoked_at.is_(None),
        WebSession.expires_at > moment,
    )
