"""`align tune list`."""

from __future__ import annotations

from typing import Annotated

import typer

WIDE = 130  # columns of a terminal that shows all of the table
app = typer.Typer(help="Tuning methods: what `tuning.method` can be.", no_args_is_help=True)


@app.callback()
def tune() -> None:
    """Tuning methods: what `tuning.method` can be."""


@app.command("list")
def list_methods(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Count weights and memory for this model, in place of an 8B Llama (minutes).",
        ),
    ] = None,
) -> None:
    """List the methods: what each trains, how much of an 8B model, in how much memory, and where it can be used.

    Example: [bold]align tune list[/bold]
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table
    from transformers import AutoConfig

    from alignment.console import output
    from alignment.models import base_of, from_pretrained, resolve
    from alignment.tuning.table import COLUMNS, LLAMA_8B, TOKENS, figures_of, rows

    figures = figures_of(from_pretrained(AutoConfig, base_of(resolve(model)))) if model else LLAMA_8B
    shown = [c for c in COLUMNS if output.width >= WIDE or c not in ("default size", "reference", "arXiv")]
    table = Table(
        *shown,
        box=SIMPLE_HEAD,
        pad_edge=False,
        title=f"tuning.method, with share and memory of {escape(model or 'an 8B Llama')} "
        f"(a sequence of {TOKENS} tokens, bfloat16)",
        title_justify="left",
        caption="DPO and PPO find their reference exactly by switching adapters off; full keeps a frozen copy. "
        "Sizes and papers: docs/tuning.md, or a wider terminal.",
        caption_justify="left",
    )
    for name in {"method", "trained", "GiB", "merges"} & set(shown):
        table.columns[shown.index(name)].no_wrap = True
    for row in rows(figures):
        table.add_row(*(escape(cell) for name, cell in zip(COLUMNS, row, strict=True) if name in shown))
    output.print(table)
