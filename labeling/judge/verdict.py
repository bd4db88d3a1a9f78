"""Two readings, one for each order of the answers, become one judgement in stored order."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from labeling.judge.parsing import Outcome, ReplyReading

# which failure names the judgement when the two orders fail differently: the one worth asking again first
_FAILURES: tuple[Outcome, ...] = ("api_error", "refused", "truncated", "unparsed")
ORDERS = ((0, 1), (1, 0))  # stored positions as shown: answer A is the side at order[0]


@dataclass(frozen=True)
class Verdict:
    """What a judge holds of one comparison. `p_first`: probability that stored position 0 is better."""

    outcome: Outcome
    p_first: float | None = None
    order_consistent: bool | None = None
    label_mass: float | None = None  # the smaller of the two orders'
    reason: str = ""


def combine(readings: tuple[ReplyReading, ReplyReading], tie_band: float) -> Verdict:
    """Average over the orders of `ORDERS`; a mean within `tie_band` of 0.5 is a tie.

    If either order failed there is no verdict: the failure is the outcome, with which order and why.
    `order_consistent` says whether both orders named the same winner (or both a tie).
    """
    for failure in _FAILURES:
        if any(reading.outcome == failure for reading in readings):
            reasons = [
                f"{_order_name(order)}: {reading.outcome}: {reading.reason}"
                for order, reading in zip(ORDERS, readings, strict=True)
                if reading.outcome in _FAILURES
            ]
            return Verdict(failure, reason="; ".join(reasons))
    in_stored_order = [
        p if order == (0, 1) else 1 - p
        for order, p in zip(ORDERS, (reading.p_a for reading in readings), strict=True)
        if p is not None
    ]
    p_first = fmean(in_stored_order)
    masses = [reading.label_mass for reading in readings if reading.label_mass is not None]
    # the small allowance keeps a mean that lies on the band's edge a tie whatever the rounding
    is_tie = abs(p_first - 0.5) <= tie_band + 1e-9
    return Verdict(
        "tie" if is_tie else "verdict",
        p_first=p_first,
        order_consistent=_winner(readings[0], ORDERS[0]) == _winner(readings[1], ORDERS[1]),
        label_mass=min(masses) if masses else None,
    )


def _winner(reading: ReplyReading, order: tuple[int, int]) -> int | None:
    return {"A": order[0], "B": order[1]}.get(reading.label or "")


def _order_name(order: tuple[int, int]) -> str:
    return f"side {order[0]} shown first"
