"""The tables' history, as Alembic runs it. No alembic.ini: `labeling.database.connect` does it when needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

HEAD = "0004"  # the newest revision in versions/; a test holds the two together
VERSION_TABLE = "align_version"


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration for this folder, on an open connection inside a transaction."""
    from alembic.config import Config

    settings = Config(attributes={"connection": connection})
    settings.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return settings


def revisions() -> set[str]:
    """Every revision that this version of the package knows."""
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
