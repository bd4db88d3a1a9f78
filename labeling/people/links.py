"""One-time links: who follows one may choose a password. /invitation/TOKEN in the app."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, update
from sqlalchemy.orm import Session

from labeling.errors import LabelingError
from labeling.people.person import Person, select_people
from labeling.people.secret import digest, new_token
from labeling.people.tables import Invitation
from labeling.schema import Annotator, now

LIFETIME = timedelta(days=7)
DEAD = "this link was used already, or it is more than 7 days old: ask for a new one"


def add_link(session: Session, person_id: int) -> str:
    """The token of a new link for this person."""
    token = new_token()
    session.add(Invitation(token_hash=digest(token), annotator_id=person_id, expires_at=now() + LIFETIME))
    return token


def person_of_link(connection: Connection | Session, token: str) -> Person:
    """Whose link this is. Raises LabelingError for one that is used, withdrawn, too old or unknown."""
    query = select_people().join(Invitation, Invitation.annotator_id == Annotator.id)
    row = connection.execute(query.where(usable(token, now()), Annotator.active)).first()
    if row is None:
        raise LabelingError(DEAD)
    return Person(*row)


def end_links(session: Session, person_id: int) -> None:
    """As part of a change after which a person's older links must not work."""
    mine = (Invitation.annotator_id == person_id, Invitation.used_at.is_(None))
    session.execute(update(Invitation).where(*mine).values(used_at=now()))


def usable(token: str, moment: datetime) -> ColumnElement[bool]:
    return and_(
        Invitation.token_hash == digest(token),
        Invitation.used_at.is_(None),
        Invitation.expires_at > moment,
    )
