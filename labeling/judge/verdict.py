"""The readings of all replies about one comparison become one judgement, in stored order."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any

from labeling.judge.parsing import Outcome, ReplyReading

# which failure names the judgement when replies fail differently: the one worth asking again first
_FAILURES: tuple[Outcome, ...] = ("api_error", "refused", "truncated", "unparsed")
Order = tuple[int, ...]  # stored positions as shown
Table = list[list[float]]


@dataclass(frozen=True)
class Seen:
    """One reply's reading, and which answers it was shown, in which order."""

    order: Order
    reading: ReplyReading

    def as_dict(self) -> dict[str, Any]:
        said = {name: value for name, value in asdict(self.reading).items() if value not in (None, "")}
        return {"order": list(self.order), **said}


@dataclass(frozen=True)
class Verdict:
    """What a judge holds of one comparison.

    `p_first`: probability that stored position 0 is better; None for a failure, and for more than two sides,
    of which `ranks` tells, 1 being the best. `confidence`: of the winner, 0.5 to 1, over all pairs of sides.
    """

    outcome: Outcome
    p_first: float | None = None
    order_consistent: bool | None = None
    label_mass: float | None = None  # the smallest of any reply
    ranks: tuple[int, ...] | None = None
    scores: tuple[dict[str, float], ...] | None = None  # of each side, where answers were rated
    confidence: float | None = None
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether it says something of the answers, so that it becomes a label."""
        return self.outcome in ("verdict", "tie")


def of_pair(seen: Sequence[Seen], tie_band: float) -> Verdict:
    """The mean probability, first within an order and then over both; near 0.5 by `tie_band` it is a tie.

    `order_consistent` says whether most replies in either order named the same winner (or a tie).
    """
    read = _by_order(seen)
    if isinstance(read, Verdict):
        return read
    means = []
    winners = set()
    for order, readings in read.items():
        p_a = fmean(reading.p_a for reading in readings if reading.p_a is not None)
        means.append(p_a if order == (0, 1) else 1 - p_a)
        winners.add({"A": order[0], "B": order[1]}.get(_most(readings)))
    masses = [s.reading.label_mass for s in seen if s.reading.label_mass is not None]
    consistent = len(winners) == 1 if len(read) > 1 else None
    p = fmean(means)
    verdict = of_table([[0.5, p], [1 - p, 0.5]], tie_band, order_consistent=consistent)
    return replace(verdict, label_mass=min(masses) if masses else None)


def of_ranks(seen: Sequence[Seen], tie_band: float) -> Verdict:
    """For each two sides the share of rankings that put one before the other, first within an order."""
    read = _by_order(seen)
    if isinstance(read, Verdict):
        return read
    sides = len(seen[0].order)
    tables = []
    rankings = set()
    for order, readings in read.items():
        stored = [tuple(dict(sorted(zip(order, r.ranks or (), strict=True))).values()) for r in readings]
        by_reading = [ranked(ranks) for ranks in stored]
        tables.append(_pairs(sides, lambda i, j, of=by_reading: fmean(t[i][j] for t in of)))  # type: ignore[misc]
        rankings.add(tuple(_ranks([-sum(row) for row in tables[-1]])))
    mean = [[fmean(table[i][j] for table in tables) for j in range(sides)] for i in range(sides)]
    return of_table(mean, tie_band, order_consistent=len(rankings) == 1 if len(read) > 1 else None)


def of_scores(seen: Sequence[Seen], tie_band: float) -> Verdict:
    """One point of the mean over aspects is one unit of Bradley-Terry log-odds, as a step of people's scale is."""
    read = _by_order(seen)
    if isinstance(read, Verdict):
        return read
    scores = []
    for (_side,), readings in sorted(read.items()):
        given = [reading.scores or {} for reading in readings]
        scores.append({aspect: fmean(one[aspect] for one in given) for aspect in given[0]})
    overall = [fmean(marks.values()) for marks in scores]
    table = _pairs(len(scores), lambda i, j: 1 / (1 + math.exp(overall[j] - overall[i])))
    return replace(of_table(table, tie_band), scores=tuple(scores))


def _by_order(seen: Sequence[Seen]) -> Mapping[Order, list[ReplyReading]] | Verdict:
    """The readings that say something, by order; a failed verdict if in some order they are no majority."""
    read: dict[Order, list[ReplyReading]] = defaultdict(list)
    failed: dict[Order, list[ReplyReading]] = defaultdict(list)
    for one in seen:
        (read if one.reading.outcome in ("verdict", "tie") else failed)[one.order].append(one.reading)
    lost = [(order, readings) for order, readings in failed.items() if len(readings) >= len(read[order])]
    for failure in _FAILURES:
        if any(reading.outcome == failure for _, readings in lost for reading in readings):
            reasons = [
                f"side {order[0]} shown first: {reading.outcome}: {reading.reason}"
                for order, readings in lost
                for reading in readings[:1]
            ]
            return Verdict(failure, reason="; ".join(reasons))
    return read


def _most(readings: Sequence[ReplyReading]) -> str:
    """The label of most replies; a tie if two have as many."""
    counts = Counter(reading.label for reading in readings).most_common(2)
    even = len(counts) == 2 and counts[0][1] == counts[1][1]
    return "C" if even else str(counts[0][0])


def _pairs(sides: int, better: Callable[[int, int], float]) -> Table:
    return [[0.5 if i == j else better(i, j) for j in range(sides)] for i in range(sides)]


def of_table(better: Table, tie_band: float, order_consistent: bool | None = None) -> Verdict:
    """The verdict that a table of pairs gives: `better[i][j]`, the probability that side i is better than j."""
    # the small allowance keeps a mean that lies on the band's edge a tie whatever the rounding
    even = tie_band + 1e-9
    pairs = [better[i][j] for i, j in combinations(range(len(better)), 2)]
    outcome: Outcome = "tie" if all(abs(p - 0.5) <= even for p in pairs) else "verdict"
    confidence = fmean(max(p, 1 - p) for p in pairs)
    if len(better) == 2:
        return Verdict(outcome, p_first=pairs[0], order_consistent=order_consistent, confidence=confidence)
    ranks = tuple(_ranks([-sum(row) for row in better]))
    return Verdict(outcome, ranks=ranks, order_consistent=order_consistent, confidence=confidence)


def table_of(verdict: Verdict, *, votes: bool = False) -> Table:
    """A verdict as a table of pairs; as `votes` each pair is wholly for one side, or even.

    Of more than two sides only the ranks are known, so their pairs always are.
    """
    if verdict.ranks:
        return ranked(verdict.ranks)
    p = 0.5 if verdict.p_first is None else verdict.p_first
    if votes:
        p = 0.5 if verdict.outcome == "tie" else float(p > 0.5)
    return [[0.5, p], [1 - p, 0.5]]


def ranked(ranks: Sequence[int]) -> Table:
    """A ranking as a table of pairs."""
    return _pairs(len(ranks), lambda i, j: (1 + (ranks[i] < ranks[j]) - (ranks[i] > ranks[j])) / 2)


def _ranks(costs: Sequence[float]) -> list[int]:
    """1 for the lowest; equal ones share a rank."""
    rounded = [round(cost, 9) for cost in costs]
    return [1 + sum(other < cost for other in rounded) for cost in rounded]
