"""The plots of a report, as inline SVG that follows the page's font, text colour and dark mode."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

COLORS = ("#7d8899", "#2f7fd1", "#d97a1f", "#2e9e6b", "#9a63c9")  # as --series-N in report.html.j2
INK = "#010203"  # stands for the page's own text colour, put in after drawing


def bars(
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
    *,
    as_percent: bool = False,
) -> str:
    """One bar a name, with its interval (low, high) where there is one."""
    figure, axes = _canvas()
    for index, (name, value) in enumerate(values.items()):
        axes.bar(name, value, color=COLORS[index % len(COLORS)], width=0.62)
        low, high = (intervals or {}).get(name, (value, value))
        axes.vlines(name, low, high, color=INK, linewidth=1.2)
        label = f"{100 * value:.0f}%" if as_percent else f"{value:.3g}"
        axes.annotate(label, (index, high), (0, 4), textcoords="offset points", ha="center", fontsize=9)
    if as_percent:
        axes.set_ylim(0, 1.08)
        _percent_ticks(axes)
    axes.tick_params(axis="x", length=0)
    axes.margins(y=0.15)
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
        axes.annotate(name, (x, y), (9, -3), textcoords="offset points", fontsize=9)
    axes.set_xlabel(x_label)
    axes.margins(x=0.22, y=0.15)
    if as_percent:
        axes.set_ylim(0, 1.05)
        _percent_ticks(axes)
    return _svg(figure)


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
