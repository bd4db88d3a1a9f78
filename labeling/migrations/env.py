"""Alembic's entry point: runs the revisions on the connection that `labeling.database` hands over."""

from __future__ import annotations

from alembic import context

import labeling.people.tables  # noqa: F401 - tables of the store too
from labeling.migrations import VERSION_TABLE
from labeling.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
