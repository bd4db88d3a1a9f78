"""The dashboard in a few lines of text, for a terminal."""

from __future__ import annotations

from labeling.figures.dashboard import Dashboard
from labeling.figures.quality import EVERYONE
from labeling.figures.rates import Rate


def dashboard_lines(of: Dashboard) -> list[str]:
    """What is done, how fast and how well; a figure that nothing is known of is left out."""
    lines = [f"comparisons finished: {of.finished} of {of.comparisons}"]
    if of.pace:
        lines.append(
            f"seconds per item: median {of.pace.median:.0f}, half {of.pace.low:.0f} to {of.pace.high:.0f}"
        )
    people = of.people
    if people.alpha is not None and people.interval:
        lines.append(f"alpha, 95 % interval: {people.interval[0]:.2f} to {people.interval[1]:.2f}")
    if people.ordinal is not None:
        lines.append(f"alpha on the scale: {people.ordinal:.3g}")
    if people.fleiss is not None:
        lines.append(f"Fleiss' kappa: {people.fleiss:.3g}")
    for name, rates in (
        ("right on gold", of.gold),
        ("same when asked again", of.repeats),
        ("prefers the side shown first", of.position),
    ):
        lines += [f"{name}: {said(rate)}" for rate in [rates.get(EVERYONE)] if rate and rate.of]
    if of.open_flags:
        lines.append(f"open flags: {of.open_flags}")
    return lines


def said(rate: Rate) -> str:
    low, high = rate.interval or (0.0, 1.0)
    return f"{100 * (rate.share or 0):.0f} % of {rate.of} (95 %: {100 * low:.0f} to {100 * high:.0f} %)"
