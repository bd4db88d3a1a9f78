"""Changing people: one at a time, only by those who may."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from labeling.errors import LabelingError
from labeling.people.person import Person, Role, find
from labeling.schema import Annotator
from labeling.store import Store

PEOPLE_LOCK = 0x70656F70


@contextmanager
def changes(store: Store) -> Iterator[Session]:
    """A transaction that no other such transaction runs beside, so that what it reads stays true until it ends."""
    with store.begin() as session:  # on SQLite it holds the write lock from the start
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text(f"SELECT pg_advisory_xact_lock({PEOPLE_LOCK})"))
        yield session


def existing(connection: Connection | Session, person_id: int) -> Person:
    """The person with this id. Raises LabelingError."""
    person = find(connection, Annotator.id == person_id)
    if person is None:
        raise LabelingError(f"there is no person with the id {person_id}")
    return person


def check_may_change(session: Session, by: int | None, *roles: Role) -> None:
    """Raises LabelingError unless `by` may change people of these roles: admins may all, leads annotators.

    None stands for the command line: whoever can write the database may do anything already.
    """
    if by is None:
        return
    actor = find(session, Annotator.id == by)
    needed: Role = "lead" if set(roles) <= {"annotator"} else "admin"
    if actor is None or not actor.may(needed):
        raise LabelingError(f"this needs the role {needed}")
