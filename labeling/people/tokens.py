"""Tokens with which a person's scripts use the HTTP API."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, select, update
from sqlalchemy.orm import Session

from labeling.errors import LabelingError
from labeling.people.audit import add_entry
from labeling.people.changes import changes, check_may_change, existing
from labeling.people.names import is_invisible
from labeling.people.person import Person, select_people
from labeling.people.secret import digest, new_token
from labeling.people.tables import ApiToken
from labeling.schema import Annotator, as_utc, now
from labeling.store import Store

PREFIX = "align_"  # so that scanners for leaked secrets can know one
LONGEST_NAME = 64
NOTE_USE_AFTER = timedelta(hours=1)  # so that reading does not write each time


@dataclass(frozen=True)
class Token:
    """What is known of a token; the token itself was shown once, when it was made."""

    id: int
    person_id: int
    name: str
    created_at: datetime
    last_used_at: datetime | None


def make_token(store: Store, person_id: int, name: str, *, by: int | None) -> str:
    """A new token that may do what the person may; `name` says what it is for. Raises LabelingError."""
    if not 1 <= len(name) <= LONGEST_NAME or any(map(is_invisible, name)):
        raise LabelingError(f"a token's name has 1 to {LONGEST_NAME} characters, none of them invisible")
    token = new_token(PREFIX)
    with changes(store) as session:
        person = existing(session, person_id)
        check_own_or_may_change(session, by, person)
        if not person.active:
            raise LabelingError(f"{person.name} is deactivated: activate them first")
        session.add(ApiToken(token_hash=digest(token), annotator_id=person_id, name=name))
        add_entry(session, by, "token.make", person.name, {"token": name})
    return token


def tokens(store: Store, person_id: int) -> list[Token]:
    """A person's tokens that are not revoked."""
    query = select(
        ApiToken.id, ApiToken.annotator_id, ApiToken.name, ApiToken.created_at, ApiToken.last_used_at
    ).where(ApiToken.annotator_id == person_id, ApiToken.revoked_at.is_(None))
    with store.engine.connect() as connection:
        rows = connection.execute(query.order_by(ApiToken.id)).all()
    return [Token(*row[:3], as_utc(row[3]), row[4] and as_utc(row[4])) for row in rows]


def person_of_token(store: Store, token: str) -> Person | None:
    """Who is behind a token, unless it is revoked or its owner deactivated."""
    moment = now()
    mine = and_(ApiToken.token_hash == digest(token), ApiToken.revoked_at.is_(None))
    query = (
        select_people()
        .add_columns(ApiToken.last_used_at)
        .join(ApiToken, ApiToken.annotator_id == Annotator.id)
        .where(mine, Annotator.active)
    )
    with store.engine.connect() as connection:
        row = connection.execute(query).first()
    if row is None:
        return None
    *person, last_used_at = row
    if last_used_at is None or as_utc(last_used_at) < moment - NOTE_USE_AFTER:
        with store.begin() as session:
            session.execute(update(ApiToken).where(mine).values(last_used_at=moment))
    return Person(*person)


def revoke_token(store: Store, token_id: int, *, by: int | None) -> None:
    """End a token at once: one's own, or one of somebody whom `by` may change. Raises LabelingError."""
    with changes(store) as session:
        token = session.get(ApiToken, token_id)
        if token is None or token.revoked_at is not None:
            raise LabelingError(f"there is no token with the id {token_id}")
        person = existing(session, token.annotator_id)
        check_own_or_may_change(session, by, person)
        token.revoked_at = now()
        add_entry(session, by, "token.revoke", person.name, {"token": token.name})


def end_tokens(session: Session, person_id: int) -> None:
    """As part of a deactivation."""
    mine = (ApiToken.annotator_id == person_id, ApiToken.revoked_at.is_(None))
    session.execute(update(ApiToken).where(*mine).values(revoked_at=now()))


def check_own_or_may_change(session: Session, by: int | None, person: Person) -> None:
    if by != person.id:
        check_may_change(session, by, person.role)
