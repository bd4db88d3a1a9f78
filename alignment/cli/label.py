"""`align label`: the app in which people label, and the labels of people, judges and imports."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignment.cli import label_users, options
from alignment.errors import ConfigError

if TYPE_CHECKING:
    from labeling.app.live import Policy

app = typer.Typer(help="Label in the browser; look at labels and take them out.")
app.add_typer(label_users.app, name="users")


class Form(StrEnum):
    parquet = "parquet"
    jsonl = "jsonl"
    hf = "hf"


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    store: options.Store = options.DEFAULT_STORE,
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="Where it listens.")] = 7860,
    host: Annotated[
        str, typer.Option("--host", help="0.0.0.0 to be reached from elsewhere; put TLS in front.")
    ] = "127.0.0.1",
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="PATH", help="A policy that answers leads' prompts live."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help="Or one behind an OpenAI-compatible URL.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="What the endpoint calls its model.")] = None,
) -> None:
    """Serve the labeling app, unless a subcommand is given. The first start prints a link for the first admin.

    Example: [bold]align label --store align.db --port 7860[/bold]
    """
    if context.invoked_subcommand is not None:
        return
    from labeling.app.server import serve as serve_app

    serve_app(store, host=host, port=port, open_browser=open_browser, policy=live(policy, endpoint, model))


def live(policy: str | None, endpoint: str | None, model: str | None) -> Policy | None:
    """The policy that answers leads' prompts. Nothing heavy is imported before the first prompt."""
    from alignment.live import EndpointPolicy, FolderPolicy

    if policy and endpoint:
        raise ConfigError("give --policy or --endpoint, not both")
    if endpoint and not model:
        raise ConfigError("--endpoint needs --model: what the endpoint calls its model")
    if endpoint and model:
        return EndpointPolicy(endpoint, model)
    return FolderPolicy(policy) if policy else None


@app.command()
def stats(store: options.Store = options.DEFAULT_STORE, as_json: options.Json = False) -> None:
    """Labels by annotator, how far people and judges agree, and how well and fast people label.

    Example: [bold]align label stats --store align.db[/bold]
    """
    from alignment.console import output, print_json
    from labeling.figures.dashboard import read_dashboard
    from labeling.figures.lines import dashboard_lines
    from labeling.overview import label_figures
    from labeling.store import Store

    opened = Store.open(store, create=False)
    dashboard = read_dashboard(opened)
    figures = label_figures(opened, dashboard)
    if as_json:
        print_json(figures | {"dashboard": dashboard.as_dict()})
        return
    lines = [
        f"{one['name']:<32} {one['kind']:<9}{one['labels']:>8}  "
        + ", ".join(f"{count} {verdict}" for verdict, count in one["verdicts"].items())
        for one in figures["annotators"]
    ]
    lines += [
        f"{name}: {'-' if value is None else f'{value:.3g}'}" for name, value in figures["agreement"].items()
    ]
    output.print("\n".join([*lines, *dashboard_lines(dashboard)]), markup=False, soft_wrap=True)


@app.command()
def export(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A .csv, .jsonl or .parquet file; a folder for a snapshot.")
    ],
    store: options.Store = options.DEFAULT_STORE,
    snapshot: Annotated[
        Form | None,
        typer.Option("--snapshot", help="A preference dataset instead: hf is a Hugging Face dataset folder."),
    ] = None,
) -> None:
    """Write every label that is not superseded to a table, or a snapshot of them to a folder.

    In CSV, text that a spreadsheet would run as a formula is made harmless.

    Example: [bold]align label export --out labels.csv[/bold]
    """
    from alignment.console import note, output
    from labeling.export import export_labels
    from labeling.snapshot_forms import SnapshotForm, export_snapshot
    from labeling.store import Store

    opened = Store.open(store, create=False)
    if snapshot is None:
        note(f"{export_labels(opened, out)} labels in {out}")
    else:
        path = export_snapshot(opened, out, SnapshotForm(snapshot))
        output.print(str(path), markup=False, soft_wrap=True)
