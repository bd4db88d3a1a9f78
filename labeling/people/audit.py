"""The record of who changed what: people, settings, imports. Only ever added to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeling.people.tables import Audit
from labeling.schema import Annotator, as_utc
from labeling.store import Store

SHELL = "shell"  # who acted when nobody was signed in: the command line


@dataclass(frozen=True)
class Entry:
    id: int
    at: datetime
    actor: str
    action: str
    target: str
    detail: dict[str, Any]


def record(
    store: Store, actor_id: int | None, action: str, target: str, detail: dict[str, Any] | None = None
) -> None:
    """Add an entry in a transaction of its own. `detail` holds no password, link or token."""
    with store.begin() as session:
        add_entry(session, actor_id, action, target, detail)


def add_entry(
    session: Session, actor_id: int | None, action: str, target: str, detail: dict[str, Any] | None = None
) -> None:
    """Add an entry to the transaction that makes the change, so that neither is there without the other."""
    session.add(Audit(actor_id=actor_id, action=action, target=target[:255], detail=detail or {}))


def entries(store: Store, limit: int = 100, before: int | None = None) -> list[Entry]:
    """The newest entries first; `before` the id of the last one seen gives the next page."""
    query = (
        select(Audit.id, Audit.at, Annotator.name, Audit.action, Audit.target, Audit.detail)
        .outerjoin(Annotator, Annotator.id == Audit.actor_id)
        .order_by(Audit.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(Audit.id < before)
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    return [Entry(id, as_utc(at), actor or SHELL, *rest) for id, at, actor, *rest in rows]
