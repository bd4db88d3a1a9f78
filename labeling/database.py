"""Reaching the database behind a store: SQLite by default, PostgreSQL by URL, migrated to the newest tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, OperationalError

import labeling.people.tables  # noqa: F401 - tables of the store too
from labeling.errors import LabelingError
from labeling.migrations import HEAD, VERSION_TABLE
from labeling.schema import Base

BUSY_SECONDS = 60  # how long a SQLite writer waits for another before it gives up
MIGRATION_LOCK = 0x616C69676E  # "align", as PostgreSQL's advisory locks are named by numbers


def connect(url: str, *, create: bool) -> Engine:
    """An engine on the store at `url`, its tables at the newest version. Raises LabelingError."""
    address = parse(url)
    if address.get_backend_name() == "sqlite":
        prepare_file(address, create=create)
    engine = make_engine(address)
    try:
        migrate(engine, create=create)
    except OperationalError as error:
        raise LabelingError(f"cannot reach the store {shown(engine)}: {first_line(error)}") from None
    except DatabaseError as error:
        raise LabelingError(f"{shown(engine)} cannot serve as a store: {first_line(error)}") from None
    return engine


def parse(url: str) -> URL:
    """A path or a URL as a SQLAlchemy URL with the driver that we use."""
    try:
        address = (
            make_url(url) if "://" in url else URL.create("sqlite", database=str(Path(url).expanduser()))
        )
    except (ArgumentError, ValueError):
        raise LabelingError(
            f"{url!r} is not a store: give a SQLite file or postgresql+psycopg://user@host/database"
        ) from None
    backend = address.get_backend_name()
    if backend in ("postgresql", "postgres"):
        return address.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise LabelingError(f"a store lives in SQLite or PostgreSQL, not in {backend}")
    if address.database in (None, "", ":memory:"):
        raise LabelingError("a store in memory would be lost: give a file, for example align.db")
    return address


def prepare_file(address: URL, *, create: bool) -> None:
    path = Path(str(address.database))
    if path.is_dir():
        raise LabelingError(f"{path} is a folder; give the store's file, for example {path / 'align.db'}")
    if not path.exists():
        if not create:
            raise LabelingError(f"no store at {path}; `align data import` or `align rollout` makes one")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LabelingError(f"cannot make {path.parent}: {error.strerror}") from None


def make_engine(address: URL) -> Engine:
    try:
        engine = create_engine(address, json_serializer=compact_json, pool_pre_ping=not is_sqlite(address))
    except (ModuleNotFoundError, NoSuchModuleError):
        raise LabelingError(
            "PostgreSQL needs its driver: pip install 'align[postgres]' (or 'psycopg[binary]')"
        ) from None
    if is_sqlite(address):
        event.listen(engine, "connect", set_up_sqlite)
        event.listen(engine, "begin", begin_sqlite)
    return engine


def is_sqlite(address: URL) -> bool:
    return address.get_backend_name() == "sqlite"


def compact_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def begin_sqlite(connection: Connection) -> None:
    """A transaction that will write takes the lock at once: one that read first could not wait for it."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def migrate(engine: Engine, *, create: bool) -> None:
    """Bring the tables to HEAD. Alembic is only imported when there is something to do."""
    with engine.connect() as connection:
        version = stored_version(connection)
    if version == HEAD:
        return
    if version is None and not create:
        raise LabelingError(f"{shown(engine)} is not a store yet; `align data import` makes one of it")
    from alembic.command import upgrade

    from labeling.migrations import config, revisions

    if version is not None and version not in revisions():
        raise LabelingError(
            f"the store {shown(engine)} was made by a newer version of align (tables at {version}, "
            f"this one knows {HEAD}): upgrade align"
        )
    with engine.execution_options(writes=True).begin() as connection:
        if connection.dialect.name == "postgresql":  # SQLite holds its own lock by now
            connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        if stored_version(connection) is None:
            refuse_foreign_tables(connection)
        upgrade(config(connection), "head")


def stored_version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608


def refuse_foreign_tables(connection: Connection) -> None:
    """Another program's SQLite file is left alone; a PostgreSQL schema may be shared if no name clashes."""
    tables = set(inspect(connection).get_table_names())
    clashes = tables if connection.dialect.name == "sqlite" else tables & set(Base.metadata.tables)
    if clashes:
        raise LabelingError(
            f"{shown(connection.engine)} belongs to another program (it has tables named "
            f"{', '.join(sorted(clashes)[:3])}): choose another place for the store"
        )


def shown(engine: Engine) -> str:
    """The store's address as messages may show it: a path, or a URL without its password."""
    if is_sqlite(engine.url):
        return str(engine.url.database)
    return engine.url.render_as_string(hide_password=True)


def first_line(error: DatabaseError) -> str:
    return str(error.orig).strip().partition("\n")[0]
