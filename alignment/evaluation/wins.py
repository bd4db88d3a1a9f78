"""How often one policy's answers win over another's, by whoever compares them: a reward model, a judge, people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignment.evaluation.length_control import length_controlled
from alignment.evaluation.statistics import Array, Estimate, bootstrap_ratio


@dataclass(frozen=True)
class Contest:
    """What one rater said of the answers of two policies. p = prompts, k = comparisons of each.

    outcomes: (p, k), 1 where `one` wins, 0.5 for a tie, 0 where `other` wins, NaN where nothing is known.
    differences: (p, k), characters of the answer of `one` less those of the other.
    counts: what else is to be told, by name.
    """

    rater: str
    one: str
    other: str
    outcomes: Array
    differences: Array
    counts: dict[str, float | int]

    def rate(self, seed: int) -> Estimate | None:
        """The share of wins, ties as halves, with its interval over prompts; None if nothing is known."""
        known = (~np.isnan(self.outcomes)).sum(axis=1).astype(np.float64)
        if not known.sum():
            return None
        return bootstrap_ratio(np.nansum(self.outcomes, axis=1), known, seed=seed)

    def length_controlled(self, seed: int) -> Estimate | None:
        return length_controlled(self.outcomes, self.differences, seed=seed)


def by_score(rater: str, one: str, other: str, scores: Sequence[Array], lengths: Sequence[Array]) -> Contest:
    """Every answer of `one` against every answer of `other` to the same prompt: the higher score wins.

    scores, lengths: of `one` and of `other`, each (p, s).
    """

    def apart(pair: Sequence[Array]) -> Array:
        difference = pair[0][:, :, None] - pair[1][:, None, :]
        return difference.reshape(len(difference), -1)

    return Contest(rater, one, other, (1 + np.sign(apart(scores))) / 2, apart(lengths), {})


def figures_of(contest: Contest, seed: int) -> dict[str, float | int]:
    """Flat figures under win_by.RATER.ONE.OTHER: the rate, .length_controlled, each with .low and .high; counts."""
    key = f"win_by.{contest.rater}.{contest.one}.{contest.other}"
    found: dict[str, float | int] = {}
    estimates = {key: contest.rate(seed), f"{key}.length_controlled": contest.length_controlled(seed)}
    for name, estimate in estimates.items():
        if estimate:
            found |= {name: estimate.mean, f"{name}.low": estimate.low, f"{name}.high": estimate.high}
    return found | {f"{key}.{name}": count for name, count in contest.counts.items()}
