"""Several judges' verdicts on one comparison become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from labeling.judge.verdict import Verdict, of_table, table_of


def agree_on(
    verdicts: Sequence[tuple[Verdict, float]], rule: Literal["mean", "majority"], tie_band: float
) -> Verdict:
    """The verdict of a panel from its members', each with its weight.

    Members that failed do not count; if they are half of the weight or more, the panel has failed as the
    heaviest of them did.
    """
    held = [(table_of(verdict, votes=rule == "majority"), w) for verdict, w in verdicts if verdict.holds]
    failed = [(verdict, w) for verdict, w in verdicts if not verdict.holds]
    weight = sum(w for _, w in held)
    if weight <= sum(w for _, w in failed):
        worst = max(failed, key=lambda one: one[1])[0]
        return Verdict(
            worst.outcome, reason=f"{len(failed)} of {len(verdicts)} judges failed: {worst.reason}"
        )
    sides = range(len(held[0][0]))
    table = [[sum(w * of[i][j] for of, w in held) / weight for j in sides] for i in sides]
    orders = [v.order_consistent for v, _ in verdicts if v.holds and v.order_consistent is not None]
    return of_table(table, tie_band, order_consistent=all(orders) if orders else None)


def is_split(verdicts: Sequence[Verdict]) -> bool:
    """Whether members that take a side name different winners."""
    winners = {winner(verdict) for verdict in verdicts if verdict.holds} - {None}
    return len(winners) > 1


def winner(verdict: Verdict) -> int | None:
    """The stored position of the best side, None for a tie."""
    if verdict.outcome == "tie":
        return None
    if verdict.ranks:
        return verdict.ranks.index(1) if verdict.ranks.count(1) == 1 else None
    return 0 if (verdict.p_first or 0.0) > 0.5 else 1
