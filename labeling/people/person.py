"""A person as the rest of the app sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, select
from sqlalchemy.orm import Session

from labeling.people.tables import Account
from labeling.schema import Annotator

Role = Literal["annotator", "lead", "admin"]
Language = Literal["en", "zh"]
Theme = Literal["light", "dark", "system"]
ROLES: tuple[Role, ...] = ("annotator", "lead", "admin")  # each may do what those before it may


@dataclass(frozen=True)
class Person:
    id: int  # of the annotator whose labels these are
    name: str
    role: Role
    language: Language
    theme: Theme
    active: bool
    joined: bool  # has a password; before that there is only a link

    @property
    def state(self) -> Literal["active", "invited", "deactivated"]:
        if not self.active:
            return "deactivated"
        return "active" if self.joined else "invited"

    def may(self, role: Role) -> bool:
        """Whether this person may do what this role may."""
        return self.active and ROLES.index(self.role) >= ROLES.index(role)


def select_people() -> Select[*tuple[Any, ...]]:
    """Rows that `Person(*row)` takes."""
    return select(
        Annotator.id,
        Annotator.name,
        Account.role,
        Account.language,
        Account.theme,
        Annotator.active,
        Account.password_hash.is_not(None),
    ).join(Account, Account.annotator_id == Annotator.id)


def find(connection: Connection | Session, condition: ColumnElement[bool]) -> Person | None:
    row = connection.execute(select_people().where(condition)).first()
    return None if row is None else Person(*row)
