"""Stores for tests: each test that asks for `store` runs on SQLite and on a PostgreSQL server made for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from benchmarks.postgres import NotInstalled, postgres_server
from labeling.store import Store
from labeling.views import Message, NewCompletion

NUMBERS = count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server: ALIGN_TEST_POSTGRES, or one started here from Debian's package."""
    pytest.importorskip("psycopg")
    try:
        with postgres_server() as url:
            yield url
    except NotInstalled as why:
        pytest.skip(str(why))


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, once in SQLite and once in PostgreSQL."""
    if request.param == "sqlite":
        yield str(tmp_path / "align.db")
        return
    server = create_engine(request.getfixturevalue("postgres"), isolation_level="AUTOCOMMIT")
    name = f"align_{os.getpid()}_{next(NUMBERS)}"  # a schema is made in a tenth of a database's time
    with server.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    url = server.url.update_query_dict({"options": f"-csearch_path={name}"})
    yield url.render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    server.dispose()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = Store.open(store_url)
    yield store
    store.engine.dispose()


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    """For what does not depend on the database."""
    store = Store.open(str(tmp_path / "align.db"))
    yield store
    store.engine.dispose()


@pytest.fixture
def ask() -> Callable[[str], list[Message]]:
    return lambda content: [{"role": "user", "content": content}]


@pytest.fixture
def answer() -> Callable[..., NewCompletion]:
    return lambda content, model="": NewCompletion([{"role": "assistant", "content": content}], model)
