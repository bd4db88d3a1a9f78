"""What a terminal shows of a PPO run while it goes: a bar over the last iterations' figures; elsewhere, a line."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from alignment.console import note, notes, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]  # a row of metrics.jsonl
Timing = Mapping[str, Any]  # a row of timings.jsonl

LINES = {
    "score, mean ± std": "{score_mean:.3g} ± {score_std:.2g}",
    "gold score, last probe": "{gold_mean:.3g}",
    "disagreement": "{disagreement:.2g}",
    "KL to reference, k1 / k3": "{kl:.2f} / {kl_k3:.2f}",
    "tokens an answer, cut off": "{response_length:.1f}, {truncated:.0%}",
    "entropy": "{entropy:.3g}",
    "ratio, mean / max": "{ratio_mean:.4f} / {ratio_max:.3g}",
    "clipped, policy / value": "{policy_clipped:.1%} / {value_clipped:.1%}",
    "KL of the update": "{update_kl:.2g}",
    "explained variance": "{explained_variance:.2g}",
    "engine gap, mean / max": "{engine_gap_mean:.1g} / {engine_gap_max:.1g}",
}
LABEL, CELL = 28, 17  # columns of text that a name and an iteration take
LINES_APART = 5.0  # seconds, where there is no terminal


class Missing:
    """Stands for a metric that was not measured: without a critic there is no explained variance."""

    def __format__(self, form: str) -> str:
        return "–"


def cell(row: Row, form: str) -> str:
    """`form` filled from `row`; empty if none of its metrics was measured."""
    filled = form.format_map(defaultdict(Missing, row))
    return "" if filled == form.format_map(defaultdict(Missing)) else filled


def table(iterations: Sequence[tuple[Row, Timing]], width: int) -> Table:
    """The first iteration and as many of the last ones as fit into `width` columns of text."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    fit = max(2, (width - LABEL) // CELL)
    shown = [*iterations[:1], *iterations[1:][1 - fit :]]
    out = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    out.add_column("iteration", width=LABEL - 1, no_wrap=True)
    for row, _ in shown:
        out.add_column(str(row["iteration"]), justify="right", width=CELL - 1, no_wrap=True)
    for name, form in LINES.items():
        cells = [cell(row, form) for row, _ in shown]
        if any(cells):
            out.add_row(name, *cells)
    timings = [timing for _, timing in shown]
    if timings:
        out.add_row("tokens/s", *(f"{t['tokens_per_second']['all']:,.0f}" for t in timings))
        out.add_row("seconds", *(f"{sum(t['seconds'].values()):.2f}" for t in timings))
    for phase in dict.fromkeys(phase for t in timings for phase in t["seconds"]):
        out.add_row(f"  {phase}", *(cell(t["seconds"], f"{{{phase}:.2f}}") for t in timings))
    return out


def log_line(row: Row, timing: Timing, iterations: int) -> str:
    """The same of one iteration, for a log file."""
    parts = [f"{name} {filled}" for name, form in LINES.items() if (filled := cell(row, form))]
    phases = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in timing["seconds"].items())
    parts.append(f"{timing['tokens_per_second']['all']:,.0f} tokens/s")
    parts.append(f"{sum(timing['seconds'].values()):.2f} s ({phases})")
    return f"PPO: {row['iteration']}/{iterations}: {'; '.join(parts)}"


@contextmanager
def screen(before: Sequence[tuple[Row, Timing]], iterations: int) -> Iterator[Callable[[Row, Timing], None]]:
    """Yields `show(row, timing)`, to be called after each iteration; `before` are those of a run that is resumed.

    Where standard error is no terminal, the first and the last iteration and some in between get a line each.
    """
    if not notes.is_terminal:
        said = -LINES_APART

        def say(row: Row, timing: Timing) -> None:
            nonlocal said
            now = time.monotonic()
            if now - said >= LINES_APART or row["iteration"] == iterations:
                said = now
                note(log_line(row, timing, iterations))

        yield say
        return
    shown = list(before)
    with progress_bar("PPO", iterations, below=lambda: table(shown, notes.width)) as advance:
        advance(len(shown))

        def show(row: Row, timing: Timing) -> None:
            shown.append((row, timing))
            advance()

        yield show
