"""Which comparisons people are to look at first, and why. They are shown them blind, like all others."""

from __future__ import annotations

from typing import Literal

from labeling.judge.config import Routing
from labeling.judge.verdict import Verdict

Why = Literal["", "failed", "order", "split", "unsure"]


def why_people(verdict: Verdict, route: Routing, *, split: bool = False) -> Why:
    """The first reason that applies, "" if none does; `split`: the judges of a panel name different winners."""
    if not verdict.holds:
        return "failed" if route.failed else ""
    if verdict.order_consistent is False and route.order_inconsistent:
        return "order"
    if split and route.split:
        return "split"
    return "unsure" if verdict.confidence is not None and verdict.confidence < route.below else ""
