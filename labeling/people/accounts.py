"""Accounts: making them, inviting, roles, deactivating. Passwords are next door and can be had from here too.

`by` is always the id of who does it, or None for the command line. Who may not is refused here too, whatever a
page showed: admins change everybody, leads only annotators. Every change is in the audit record.
"""

from __future__ import annotations

from typing import get_args

from sqlalchemy import exists, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labeling.errors import LabelingError
from labeling.people.audit import add_entry
from labeling.people.changes import changes, check_may_change, existing
from labeling.people.links import add_link, end_links
from labeling.people.names import check_name, name_key
from labeling.people.passwords import accept_invitation, change_password, invited, reset_password
from labeling.people.person import ROLES, Language, Person, Role, Theme, find, select_people
from labeling.people.secret import hash_password
from labeling.people.sessions import end_sessions
from labeling.people.tables import Account
from labeling.people.tokens import end_tokens
from labeling.schema import Annotator
from labeling.store import Store

__all__ = [
    "Language",
    "Person",
    "Role",
    "Theme",
    "accept_invitation",
    "activate",
    "change_password",
    "create_account",
    "deactivate",
    "first_admin",
    "invite",
    "invited",
    "people",
    "person_named",
    "reset_password",
    "set_preferences",
    "set_role",
]


def people(store: Store) -> list[Person]:
    """Everybody with an account, by name."""
    with store.engine.connect() as connection:
        return [Person(*row) for row in connection.execute(select_people().order_by(Account.name_key))]


def person_named(store: Store, name: str) -> Person:
    """Raises LabelingError when there is nobody of this name."""
    key = name_key(check_name(name))
    with store.engine.connect() as connection:
        person = find(connection, Account.name_key == key)
    if person is None:
        raise LabelingError(f"there is nobody called {name!r}; `align label users list` shows everybody")
    return person


def create_account(
    store: Store, name: str, role: Role = "annotator", *, password: str | None = None, by: int | None
) -> Person:
    """A new account; without a password nobody can sign in to it yet. Hashes, if there is a password.

    An annotator of kind "human" and of exactly this name, who has no account yet, gets this one, with their labels.
    Raises LabelingError for a name that cannot be or is taken, a role that is not there, a bad password.
    """
    hashed = None if password is None else hash_password(password)
    with changes(store) as session:
        check_may_change(session, by, check_role(role))
        person = add_account(session, check_name(name), role, hashed)
        add_entry(session, by, "person.create", person.name, {"role": role})
        return person


def invite(store: Store, name: str, role: Role = "annotator", *, by: int | None) -> str:
    """The token of a one-time link (/invitation/TOKEN, 7 days) for somebody new.

    Who has not joined yet gets a new link, and the older ones end. Raises LabelingError.
    """
    with changes(store) as session:
        check_may_change(session, by, check_role(role))
        name = check_name(name)
        person = find(session, Account.name_key == name_key(name))
        if person is None:
            person = add_account(session, name, role, None)
        elif person.joined or not person.active or person.role != role:
            raise LabelingError(f"{person.name} has an account: reset their password, or set their role")
        end_links(session, person.id)
        add_entry(session, by, "person.invite", person.name, {"role": role})
        return add_link(session, person.id)


def first_admin(store: Store) -> str | None:
    """The token of a link with which a fresh store gets its first admin; None once anybody has a password."""
    with changes(store) as session:
        if session.scalar(select(exists().where(Account.password_hash.is_not(None)))):
            return None
        admin = find(session, Annotator.active & (Account.role == "admin"))
        if admin is None:
            admin = add_account(session, "admin", "admin", None)
        add_entry(session, None, "person.invite", admin.name, {"role": "admin"})
        return add_link(session, admin.id)


def set_role(store: Store, person_id: int, role: Role, *, by: int | None) -> Person:
    """Give a person another role. Raises LabelingError, also for the last active admin.

    Ends their sessions, links and tokens: a lead may hold an annotator's link, and must not become an admin by it.
    """
    with changes(store) as session:
        person = existing(session, person_id)
        check_may_change(session, by, person.role, check_role(role))
        if role == person.role:
            return person
        check_other_admin(session, person)
        session.execute(update(Account).where(Account.annotator_id == person_id).values(role=role))
        end_access(session, person_id)
        add_entry(session, by, "person.role", person.name, {"from": person.role, "to": role})
        return existing(session, person_id)


def deactivate(store: Store, person_id: int, *, by: int | None) -> Person:
    """Shut a person out: sessions, tokens and links end now. Their labels stay.

    Raises LabelingError, also for the last active admin.
    """
    with changes(store) as session:
        person = existing(session, person_id)
        check_may_change(session, by, person.role)
        if not person.active:
            return person
        check_other_admin(session, person)
        session.execute(update(Annotator).where(Annotator.id == person_id).values(active=False))
        end_access(session, person_id)
        add_entry(session, by, "person.deactivate", person.name)
        return existing(session, person_id)


def activate(store: Store, person_id: int, *, by: int | None) -> Person:
    """Let a person in again, with the password they had; sessions and tokens do not come back."""
    with changes(store) as session:
        person = existing(session, person_id)
        check_may_change(session, by, person.role)
        if person.active:
            return person
        session.execute(update(Annotator).where(Annotator.id == person_id).values(active=True))
        add_entry(session, by, "person.activate", person.name)
        return existing(session, person_id)


def set_preferences(
    store: Store, person_id: int, *, language: Language | None = None, theme: Theme | None = None
) -> Person:
    """Remember a person's language or theme, or both. Raises LabelingError for one that is not there."""
    if language not in (None, *get_args(Language)) or theme not in (None, *get_args(Theme)):
        raise LabelingError(
            f"languages: {', '.join(get_args(Language))}; themes: {', '.join(get_args(Theme))}"
        )
    with changes(store) as session:
        session.execute(
            update(Account)
            .where(Account.annotator_id == person_id)
            .values(language=language or Account.language, theme=theme or Account.theme)
        )
        return existing(session, person_id)


def add_account(session: Session, name: str, role: Role, hashed: str | None) -> Person:
    key = name_key(name)
    if find(session, Account.name_key == key) is not None:
        raise LabelingError(f"there is somebody called {name!r} already")
    annotators = session.scalars(select(Annotator))  # the people, judges and imports: few
    annotator = next((one for one in annotators if name_key(one.name) == key), None)
    if annotator is None:
        annotator = Annotator(name=name, kind="human")
    elif (annotator.name, annotator.kind) != (name, "human"):
        raise LabelingError(f"the name {name!r} is taken by {annotator.name!r}, of kind {annotator.kind}")
    session.add(annotator)
    try:
        session.flush()
    except IntegrityError:  # a script made an annotator of this name at the same moment
        raise LabelingError(f"the name {name!r} has just been taken") from None
    session.add(Account(annotator_id=annotator.id, name_key=key, role=role, password_hash=hashed))
    session.flush()
    return existing(session, annotator.id)


def end_access(session: Session, person_id: int) -> None:
    end_sessions(session, person_id)
    end_tokens(session, person_id)
    end_links(session, person_id)


def check_role(role: Role) -> Role:
    if role not in ROLES:
        raise LabelingError(f"unknown role {role!r}; known: {', '.join(ROLES)}")
    return role


def check_other_admin(session: Session, person: Person) -> None:
    """Raises LabelingError if without this person nobody could change people any more."""
    if person.active and person.role == "admin":
        admins = select(Account.annotator_id).join(Annotator, Annotator.id == Account.annotator_id)
        others = admins.where(Account.role == "admin", Annotator.active, Annotator.id != person.id)
        if session.scalar(others.limit(1)) is None:
            raise LabelingError(f"{person.name} is the last active admin: make somebody else one first")
