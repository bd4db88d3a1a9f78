"""Where commands print: progress and notes on standard error, results on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

if TYPE_CHECKING:
    from rich.console import RenderableType

notes = Console(stderr=True, highlight=False)
output = Console(highlight=False)

T = TypeVar("T")


def note(text: str) -> None:
    """A line for the person at the terminal: what was made, what was left out and why."""
    notes.print(text, markup=False, soft_wrap=True)


def print_json(figures: dict[str, Any]) -> None:
    print(json.dumps(figures, indent=2, ensure_ascii=False))  # noqa: T201


def print_plan(config: str, plan: Mapping[str, Any]) -> None:
    """What --dry-run shows: the resolved config, and the plan in comments, so that the whole is YAML still."""
    lines = [f"# {name}: {value}" for name, value in plan.items()]
    output.print(config + "\n".join(["# the plan", *lines]), markup=False, soft_wrap=True)


@contextmanager
def progress_bar(
    what: str, total: int | None, below: Callable[[], RenderableType] | None = None
) -> Iterator[Any]:
    """A bar with rate and time left; yields `advance(n=1, **figures)`, figures shown beside the bar.

    What `below` returns, a table say, is drawn under the bar at every refresh.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = [
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    ]

    class BarAndBelow(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            if below:
                yield below()

    with BarAndBelow(*columns, console=notes, refresh_per_second=2 if below else 10) as progress:
        task = progress.add_task(what, total=total, figures="")

        def advance(n: int = 1, **figures: Any) -> None:
            shown = "  ".join(
                f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()
            )
            if figures:
                progress.update(task, figures=shown)
            progress.advance(task, n)

        yield advance


def tracked(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    with progress_bar(what, total) as advance:
        for item in items:
            yield item
            advance()
