"""The dashboard's plots: inline SVG in the page's own font and text colour, so that dark mode needs no second."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from threading import Lock
from typing import Any

from labeling.figures.rates import Rate
from labeling.figures.throughput import DayCount, Pace

COLORS = ("#2f7fd1", "#d97a1f", "#2e9e6b", "#9a63c9", "#c9a227", "#c2557a", "#3aa6b0")
OTHERS = "#7d8899"
INK = "#010203"  # stands for the page's own text colour, put in after drawing
MOST_PEOPLE = 12  # in one plot
MOST_DAYS = 30
SAVING = Lock()  # matplotlib's settings belong to the process


def throughput(days: Sequence[DayCount]) -> str:
    """Labels by day, the last thirty days, stacked by person."""
    last = max(one.day for one in days)
    axis = [last - timedelta(days=back) for back in reversed(range(min(MOST_DAYS, span(days, last))))]
    totals: dict[str, int] = {}
    for one in days:
        totals[one.person] = totals.get(one.person, 0) + one.labels
    named = sorted(totals, key=lambda person: (-totals[person], person))[: len(COLORS)]
    stacks = {person: dict.fromkeys(axis, 0) for person in [*named, "others"]}
    for one in days:
        if one.day in stacks["others"]:
            stacks[one.person if one.person in named else "others"][one.day] += one.labels
    figure, axes = canvas()
    base = [0] * len(axis)
    for person, color in zip(stacks, [*COLORS[: len(named)], OTHERS], strict=True):
        heights = list(stacks[person].values())
        if any(heights):
            axes.bar(range(len(axis)), heights, bottom=base, color=color, width=0.7, label=shown(person))
            base = [a + b for a, b in zip(base, heights, strict=True)]
    ticks = range(0, len(axis), max(1, len(axis) // 6))
    axes.set_xticks(list(ticks), [f"{axis[i]:%d %b}" for i in ticks])
    figure.legend(frameon=False, fontsize=9, loc="outside right upper")
    return svg(figure, f"Labels by day and person, the last {len(axis)} days")


def span(days: Sequence[DayCount], last: date) -> int:
    return (last - min(one.day for one in days)).days + 1


def time_per_item(paces: Sequence[Pace]) -> str:
    """The median of each person, and the line from the first to the third quartile."""
    first = sorted(paces, key=lambda one: one.median)[:MOST_PEOPLE]
    figure, axes = canvas(across=True)
    for row, one in enumerate(reversed(first)):
        axes.hlines(row, one.low, one.high, color=COLORS[0], linewidth=5, alpha=0.35)
        axes.plot([one.median], [row], "o", color=COLORS[0], markersize=7)
    axes.set_yticks(range(len(first)), [shown(one.person) for one in reversed(first)])
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds: median and quartiles")
    axes.margins(y=0.12)
    return svg(figure, "Time per item by person")


def shares(rates: Mapping[str, Rate], what: str, *, level: float | None = None) -> str:
    """The share of each person with its 95 % interval; a line at the share that would mean nothing."""
    people = [(name, rate) for name, rate in rates.items() if rate.of][:MOST_PEOPLE]
    figure, axes = canvas(across=True)
    if level is not None:
        axes.axvline(level, color=INK, alpha=0.5, linewidth=1, linestyle=(0, (4, 3)))
    for row, (name, rate) in enumerate(reversed(people)):
        color = COLORS[0] if name else INK
        low, high = rate.interval or (0.0, 0.0)
        axes.hlines(row, low, high, color=color, linewidth=2, alpha=0.6)
        axes.plot([rate.share], [row], "o", color=color, markersize=7)
    axes.set_yticks(
        range(len(people)), [f"{shown(name or 'everyone')} ({rate.of})" for name, rate in reversed(people)]
    )
    axes.set_xlim(0, 1)
    axes.margins(y=0.12)
    percents(axes.xaxis)
    return svg(figure, what)


def histogram(counts: Mapping[str, int]) -> str:
    """How often each step of the scale was used, as the annotators saw it."""
    figure, axes = canvas()
    for place, (step, count) in enumerate(counts.items()):
        apart = step == "both bad"
        axes.bar(place + 0.4 * apart, count, color=OTHERS if apart else COLORS[0], width=0.72)
        axes.annotate(f"{count:,}", (place + 0.4 * apart, count), (0, 3), textcoords="offset points",
                      ha="center", fontsize=8.5)  # fmt: skip
    names = ["\n".join(step.rsplit(" ", 1)) for step in counts]
    axes.set_xticks([*range(len(counts) - 1), len(counts) - 0.6], names, fontsize=7.5)
    axes.tick_params(axis="x", length=0)
    axes.margins(y=0.12)
    return svg(figure, "How often each step of the scale was used")


def shown(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"


def percents(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))


def canvas(*, across: bool = False) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(6.0, 2.9), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.spines[["left", "bottom"]].set_alpha(0.35)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="x" if across else "y", color=INK, alpha=0.1, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def svg(figure: Any, title: str) -> str:
    """The figure as an `<svg>` element with a name for screen readers. Names of people are plain text in it."""
    import matplotlib as mpl

    for text in figure.findobj(mpl.text.Text):
        text.set_color(INK)
        text.set_parse_math(False)  # a name may hold a dollar sign
    out = io.StringIO()
    with SAVING, mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)  # the same in every plot, and a page has several
    drawn = " ".join(
        drawn.split()
    )  # one line: pages pass it on through Markdown, where a blank line ends HTML
    return drawn.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
