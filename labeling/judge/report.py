"""What one run of a judge job did, for its last lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from labeling.judge.calls.asker import CallCounts
from labeling.judge.calls.prices import PICO, dollars

HELD = ("verdict", "tie")


@dataclass
class JudgeReport:
    """Every comparison that a run took up is under one of `outcomes`, `not_pairs` or `own`."""

    judge: str
    comparisons: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    labels: int = 0
    order_inconsistent: int = 0  # of those with a verdict or a tie
    routed: Counter[str] = field(default_factory=Counter)  # to people, by reason
    not_pairs: int = 0  # more than two sides: a pairwise judge leaves them alone
    own: int = 0  # no judge was left that had not given one of the answers itself
    calls: CallCounts = field(default_factory=CallCounts)
    cost: int | None = (
        None  # picodollars of this run, lost replies at the most they can have cost; None: no price
    )
    stopped_by_budget: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "outcomes": dict(self.outcomes),
            "routed": dict(self.routed),
            "cost": None if self.cost is None else self.cost / PICO,
        }

    def progress(self) -> dict[str, Any]:
        """What stands beside the bar."""
        counts = {outcome: self.outcomes[outcome] for outcome in HELD}
        figures: dict[str, Any] = counts | {"failed": self.outcomes.total() - sum(counts.values())}
        return figures | ({} if self.cost is None else {"cost": dollars(self.cost)})

    def as_text(self) -> str:
        calls = self.calls
        lines = [
            f"{self.judge}: {self.comparisons:,} comparisons ({listed(self.outcomes) or 'none waiting'}"
            f"{self._left_alone()}), {self.labels:,} labelled, {self.order_inconsistent:,} of them with a winner "
            "that changed with the order",
            f"calls: {calls.attempts:,} sent, {calls.answered:,} answered, {calls.failed:,} turned down, "
            f"{calls.uncertain:,} uncertain, {calls.reused:,} answers reused; tokens: {calls.prompt_tokens:,} in, "
            f"{calls.completion_tokens:,} out; cost: "
            + ("no price known" if self.cost is None else dollars(self.cost)),
        ]
        if self.routed:
            lines.append(f"to people first: {self.routed.total():,} ({listed(self.routed)})")
        if self.stopped_by_budget:
            lines.append("stopped by the budget: a higher one goes on from here")
        return "\n".join(lines)

    def _left_alone(self) -> str:
        more = f"; {self.not_pairs:,} with more than two sides left alone" if self.not_pairs else ""
        own = f"; {self.own:,} with answers of the judge's own model left alone" if self.own else ""
        return more + own


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
