"""`align data`: what goes into the store, and the data sets that come out of it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from alignment.cli import options

app = typer.Typer(help="Bring data into the store, look at it, take snapshots.", no_args_is_help=True)


class Exportable(StrEnum):
    sft = "sft"
    prompts = "prompts"


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="PATH|HUB_ID", help="A file, a folder, or owner/name[:split].")
    ],
    format: Annotated[
        str, typer.Option("--format", "-f", help="The format's name; auto recognises it.")
    ] = "auto",
    store: options.Store = options.DEFAULT_STORE,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Read at most so many rows.")] = None,
    rejects: Annotated[
        Path | None,
        typer.Option("--rejects", help="Where rows that do not fit go.", show_default="NAME.rejects.jsonl"),
    ] = None,
    prompt_column: Annotated[
        str | None, typer.Option(help="The column that asks, for a plain table.")
    ] = None,
    response_column: Annotated[
        str | None, typer.Option(help="The column that answers, if there is one.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Import prompts, instruction data or preferences; importing the same rows again adds nothing.

    Rows that do not fit are counted, and written to a file with the reason.

    Example: [bold]align data import hh_rlhf.jsonl.gz --store align.db[/bold]
    """
    from alignment.console import note, print_json, progress_bar
    from labeling.importers import import_path
    from labeling.store import Store

    with progress_bar("importing", limit) as advance:
        report = import_path(
            Store.open(store), source, format=format, limit=limit, rejects=rejects, progress=advance,
            prompt_column=prompt_column, response_column=response_column,
        )  # fmt: skip
    if as_json:
        print_json(report.as_dict())
    else:
        note(report.as_text())


@app.command()
def clean(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Files in any format that import recognises.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The JSON lines file of the rows that stay.")],
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="Evaluation files: rows that share a run of words with them leave."),
    ] = None,
    near: Annotated[
        float, typer.Option(help="Rows this alike (Jaccard similarity of 3-word runs) are near duplicates.")
    ] = 0.8,
    exact_only: Annotated[
        bool, typer.Option("--exact-only", help="Let near duplicates stay; takes less memory and time.")
    ] = False,
    min_words: Annotated[
        int, typer.Option(min=0, help="Of the whole row; a Chinese character is a word.")
    ] = 1,
    max_words: Annotated[int | None, typer.Option(min=1, help="Of the whole row.")] = None,
    script: Annotated[
        list[str] | None,
        typer.Option(help="Keep rows with half of their words in these: latin, han, kana, cyrillic, ..."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it is there.")] = False,
    as_json: options.Json = False,
) -> None:
    """Leave out duplicates, near duplicates, other lengths and scripts, and what an evaluation asks.

    Rows that stay are written as they are; rows that leave go to OUT.rejects.jsonl with the reason.

    Example: [bold]align data clean a.jsonl b.parquet --out clean.jsonl --against test.jsonl --script han[/bold]
    """
    from alignment.console import note, output, print_json, progress_bar
    from alignment.data_cleaning import CleaningRules, clean_files

    rules = CleaningRules(None if exact_only else near, min_words, max_words, script or ())
    with progress_bar("cleaning", None) as advance:
        report = clean_files(
            files, out, rules, against=against or (), overwrite=overwrite, progress=advance
        )  # fmt: skip
    if as_json:
        print_json(report.as_dict())
        return
    output.print(report.as_table())
    note(f"clean: {report.total('kept')} rows in {out}; the others, with reasons, in {report.rejects}")


@app.command()
def snapshot(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder of snapshots; each gets its own in it.")
    ],
    store: options.Store = options.DEFAULT_STORE,
    test_share: Annotated[float, typer.Option(help="The share of prompts kept for testing.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Which prompts these are.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Write the labels as a preference dataset that never changes, named by its content.

    Example: [bold]align data snapshot --store align.db --out snapshots[/bold]
    """
    from alignment.console import note, output, print_json
    from labeling.snapshot import take_snapshot
    from labeling.store import Store

    taken = take_snapshot(Store.open(store, create=False), out, test_share=test_share, seed=seed)
    if as_json:
        print_json({"path": str(taken.path), "hash": taken.hash, **taken.counts})
        return
    left_out = ", ".join(f"{count} {why}" for why, count in taken.counts["left_out"].items())
    note(
        f"snapshot: {taken.counts['train']} train and {taken.counts['test']} test rows; left out: {left_out}"
    )
    output.print(str(taken.path), markup=False, soft_wrap=True)


@app.command()
def export(
    what: Annotated[Exportable, typer.Argument(help="sft: answers worth imitating; prompts: every prompt.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The JSON lines file to write.")],
    store: options.Store = options.DEFAULT_STORE,
) -> None:
    """Write SFT data {prompt, completion} or prompts {prompt} as JSON lines.

    Example: [bold]align data export sft --out sft.jsonl[/bold]
    """
    from alignment.console import note
    from labeling.export import export_prompts, export_sft
    from labeling.store import Store

    write = export_sft if what is Exportable.sft else export_prompts
    note(f"{write(Store.open(store, create=False), out)} rows in {out}")


@app.command()
def stats(store: options.Store = options.DEFAULT_STORE, as_json: options.Json = False) -> None:
    """How much of what is in the store.

    Example: [bold]align data stats --store align.db[/bold]
    """
    from alignment.console import output, print_json
    from labeling.overview import data_figures
    from labeling.store import Store

    figures = data_figures(Store.open(store, create=False))
    if as_json:
        print_json(figures)
        return
    imports = figures.pop("imports")
    lines = [f"{name:<16}{count:>10}" for name, count in figures.items()]
    lines += [
        f"imported {i['path']} ({i['format']}): {i['added']} of {i['rows']} rows added" for i in imports
    ]
    output.print("\n".join(lines), markup=False, soft_wrap=True)


@app.command()
def show(
    store: options.Store = options.DEFAULT_STORE,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many rows.")] = 3,
) -> None:
    """A few comparisons with their labels, or prompts, to read.

    Example: [bold]align data show --limit 5[/bold]
    """
    from alignment.console import note, output
    from labeling.overview import show as show_rows
    from labeling.store import Store

    rows = list(show_rows(Store.open(store, create=False), limit))
    output.print("\n\n".join(rows), markup=False, soft_wrap=True)
    if not rows:
        note("the store is empty; `align data import` fills it")
