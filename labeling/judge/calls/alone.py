"""One job of a judge on a store at a time: two would each take the other's calls in flight for lost, and ask again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from filelock import FileLock, Timeout
from sqlalchemy import text

from labeling.errors import LabelingError
from labeling.hashing import content_hash
from labeling.judge.config import JudgeConfig
from labeling.store import Store


@contextmanager
def alone(store: Store, judges: Iterable[JudgeConfig]) -> Iterator[None]:
    """Inside, no other job asks these judges for this store, in any process; a kill ends the hold.

    Raises LabelingError if one does already.
    """
    with ExitStack() as stack:
        # in one order, so that two panels do not each wait for the other's
        for key, judge in sorted({(j.base_url, j.model): j for j in judges}.items()):
            if not stack.enter_context(hold(store, content_hash(list(key))[:16])):
                raise LabelingError(
                    f"another job of {judge.annotator} is at work on this store; let it finish first"
                )
        yield


@contextmanager
def hold(store: Store, name: str) -> Iterator[bool]:
    """Whether the lock `name` of the store is ours, until the end of the block."""
    if store.engine.dialect.name == "postgresql":
        key = {"name": name}
        query = "hashtextextended(current_schema() || ' judge ' || :name, 0)"
        engine = store.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:  # the lock is this session's
            ours = bool(connection.execute(text(f"SELECT pg_try_advisory_lock({query})"), key).scalar())
            try:
                yield ours
            finally:
                if ours:
                    connection.execute(text(f"SELECT pg_advisory_unlock({query})"), key)
        return
    lock = FileLock(f"{store.engine.url.database}.judge-{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
