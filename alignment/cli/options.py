"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="YAML config; see configs/ for examples."),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Config overrides, e.g. learning_rate=1e-5.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and the plan, then stop.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run folder if it is there already.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run from its last checkpoint.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the figures as JSON on standard output, nothing else.")
]
Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="ALIGN_STORE",
        metavar="URL",
        help="The label store: a SQLite file or a PostgreSQL URL (postgresql+psycopg://...).",
    ),
]
DEFAULT_STORE = "align.db"
