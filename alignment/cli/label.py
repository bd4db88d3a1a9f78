"""`align label`: the labels of people, judges and imports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignment.cli import options

app = typer.Typer(help="Look at labels and take them out.", no_args_is_help=True)


@app.command()
def stats(store: options.Store = options.DEFAULT_STORE, as_json: options.Json = False) -> None:
    """Labels by annotator, and how far people and judges agree.

    Example: [bold]align label stats --store align.db[/bold]
    """
    from alignment.console import output, print_json
    from labeling.overview import label_figures
    from labeling.store import Store

    figures = label_figures(Store.open(store, create=False))
    if as_json:
        print_json(figures)
        return
    lines = [
        f"{one['name']:<32} {one['kind']:<9}{one['labels']:>8}  "
        + ", ".join(f"{count} {verdict}" for verdict, count in one["verdicts"].items())
        for one in figures["annotators"]
    ]
    lines += [
        f"{name}: {'-' if value is None else f'{value:.3g}'}" for name, value in figures["agreement"].items()
    ]
    output.print("\n".join(lines), markup=False, soft_wrap=True)


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="A .csv, .jsonl or .parquet file to write.")],
    store: options.Store = options.DEFAULT_STORE,
) -> None:
    """Write every label that is not superseded to a table.

    In CSV, text that a spreadsheet would run as a formula is made harmless.

    Example: [bold]align label export --out labels.csv[/bold]
    """
    from alignment.console import note
    from labeling.export import export_labels
    from labeling.store import Store

    note(f"{export_labels(Store.open(store, create=False), out)} labels in {out}")
