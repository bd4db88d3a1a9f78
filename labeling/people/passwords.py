"""Choosing a password: by a one-time link, or by the one before. Everything here that hashes takes its time:
a server calls it off its event loop.
"""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from labeling.errors import LabelingError
from labeling.people.audit import add_entry
from labeling.people.changes import changes, check_may_change, existing
from labeling.people.links import add_link, end_links, person_of_link
from labeling.people.person import Person
from labeling.people.secret import hash_password, is_password
from labeling.people.sessions import end_sessions, password_of, still_holds
from labeling.people.tables import Account
from labeling.people.throttle import SignInRefused, begin_attempt, end_attempt, forgive
from labeling.store import Store


def invited(store: Store, token: str) -> Person:
    """Whose link this is. Raises LabelingError for one that is used, too old or unknown."""
    with store.engine.connect() as connection:
        return person_of_link(connection, token)


def accept_invitation(store: Store, token: str, password: str) -> Person:
    """Choose a password by a link, which uses it up. Ends the person's sessions. Hashes.

    Raises LabelingError for a link that is dead and for a bad password, after which the link still works.
    """
    invited(store, token)  # before hashing for anybody who asks
    hashed = hash_password(password)
    with changes(store) as session:
        person = person_of_link(session, token)
        set_password(session, person, hashed)
        forgive(session, person.name)
        add_entry(session, person.id, "person.join", person.name)
        return existing(session, person.id)


def change_password(store: Store, person_id: int, current: str, password: str, address: str) -> None:
    """Choose another password. Ends all the person's sessions, also this one. Hashes.

    Raises SignInRefused when the current one is wrong, counted as a sign-in is; LabelingError for a bad new one.
    """
    with store.engine.connect() as connection:
        name = existing(connection, person_id).name
    hashed = hash_password(password)
    attempt = begin_attempt(store, name, address)
    stored = password_of(store, name)[1]
    right = is_password(current, stored)
    with changes(store) as session:
        right = right and still_holds(session, person_id, stored)
        end_attempt(session, attempt, ok=right)
        if right:
            set_password(session, existing(session, person_id), hashed)
            add_entry(session, person_id, "person.password", name)
    if not right:
        raise SignInRefused("the current password is wrong")


def reset_password(store: Store, person_id: int, *, by: int | None) -> str:
    """The token of a link to choose a new password; the old one, older links and all sessions end now."""
    with changes(store) as session:
        person = existing(session, person_id)
        check_may_change(session, by, person.role)
        if not person.active:
            raise LabelingError(f"{person.name} is deactivated: activate them first")
        set_password(session, person, None)
        add_entry(session, by, "person.reset", person.name)
        return add_link(session, person_id)


def set_password(session: Session, person: Person, hashed: str | None) -> None:
    """Whoever is signed in, or holds an older link, must show themselves again."""
    session.execute(update(Account).where(Account.annotator_id == person.id).values(password_hash=hashed))
    end_sessions(session, person.id)
    end_links(session, person.id)
