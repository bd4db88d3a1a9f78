"""The plots of a report, as inline SVG that follows the page's font, text colour and dark mode."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

COLORS = ("#7d8899", "#2f7fd1", "#d97a1f", "#2e9e6b", "#9a63c9")  # as --series-N in report.html.j2
MOST_LETTERS, LONGEST_NAME = 34, 22  # that stand level below bars; that a plot shows of a name
INK = "#010203"  # stands for the page's own text colour, put in after drawing


def bars(
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
    *,
    as_percent: bool = False,
) -> str:
    """One bar a name, with its interval (low, high) where there is one."""
    figure, axes = _canvas()
    spans = intervals or {}
    for index, (name, value) in enumerate(values.items()):
        axes.bar(index, value, color=COLORS[index % len(COLORS)], width=0.62)
        low, high = spans.get(name, (value, value))
        axes.vlines(index, low, high, color=INK, linewidth=1.2)
        label = f"{100 * value:.0f}%" if as_percent else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
        axes.annotate(label, (index, high), (0, 4), textcoords="offset points", ha="center", fontsize=9)
    if as_percent:
        axes.set_ylim(0, 1.08)
        _percent_ticks(axes)
    crowded = sum(map(len, values)) > MOST_LETTERS
    axes.set_xticks(range(len(values)), [_short(name) for name in values])
    axes.tick_params(axis="x", length=0, labelrotation=30 if crowded else 0)
    if crowded:
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    axes.margins(y=0.15)
    lowest = min((low for low, _ in spans.values()), default=0.0)
    if not as_percent and min(lowest, *values.values()) >= 0:
        axes.set_ylim(0, None if any(values.values()) else 1)
    return _svg(figure)


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    *,
    as_percent: bool = False,
    first_color: int = 0,
) -> str:
    """One line a name through its (x, y) points."""
    figure, axes = _canvas()
    for index, (name, (x, y)) in enumerate(series.items(), start=first_color):
        axes.plot(x, y, color=COLORS[index % len(COLORS)], linewidth=1.6, label=name)
    axes.set_xlabel(x_label)
    if as_percent:
        _percent_ticks(axes)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return _svg(figure)


def trade_off(
    points: Mapping[str, tuple[float, float]],
    intervals: Mapping[str, tuple[float, float]],
    x_label: str,
    *,
    as_percent: bool = False,
) -> str:
    """One named point (x, y) each, the interval on y: what was gained against how far the policy moved."""
    figure, axes = _canvas()
    for index, (name, (x, y)) in enumerate(points.items()):
        color = COLORS[index % len(COLORS)]
        axes.vlines(x, *intervals.get(name, (y, y)), color=color, linewidth=1.4)
        axes.plot([x], [y], "o", color=color, markersize=8)
        at_the_same = [other for other, point in points.items() if point == (x, y)]
        if name == at_the_same[0]:
            names = ", ".join(map(_short, at_the_same))
            axes.annotate(names, (x, y), (9, -3), textcoords="offset points", fontsize=9)
    axes.set_xlabel(x_label)
    axes.margins(x=0.22, y=0.15)
    if as_percent:
        axes.set_ylim(0, 1.05)
        _percent_ticks(axes)
    return _svg(figure)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _percent_ticks(axes: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))


def _canvas() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.spines[["left", "bottom"]].set_alpha(0.35)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color=INK, alpha=0.1, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    """The figure as an `<svg>` element; the same figure gives the same bytes."""
    import matplotlib as mpl

    for text in figure.findobj(mpl.text.Text):
        text.set_color(INK)
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "align"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
