"""Several data sets as one: how large a share each has of the training, and which examples that are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from alignment.errors import ConfigError
from alignment.prompts import PromptStream

T = TypeVar("T")


def tempered(counts: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Shares p_i ~ n_i^(1 / temperature), which sum to 1 (Arivazhagan et al. 2019; Raffel et al. 2020).

    1 draws every example equally often; the higher the temperature, the more alike are the shares.
    """
    largest = max(counts.values())
    raised = {name: (n / largest) ** (1 / temperature) for name, n in counts.items()}
    total = sum(raised.values())
    return {name: weight / total for name, weight in raised.items()}


def check_weights(weights: Mapping[str, float], names: Sequence[str]) -> None:
    """Raises ConfigError unless there is one weight, 0 or more, for each name, and all sum to 1."""
    if odd := sorted(set(weights) ^ set(names)):
        raise ConfigError(f"weights and data must have the same names; {odd[0]!r} is in one of them only")
    if any(weight < 0 for weight in weights.values()):
        raise ConfigError("weights must be 0 or more")
    if not math.isclose(total := sum(weights.values()), 1, abs_tol=1e-6):
        raise ConfigError(
            f"weights must sum to 1, not to {total:g}: they are each data set's share of the training"
        )


def whole_shares(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """How many of `total` draws each gets: its share rounded down, and what is left to the largest remainders."""
    exact = {name: share * total for name, share in shares.items()}
    counts = {name: math.floor(x) for name, x in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def mixed(examples: Mapping[str, Sequence[T]], shares: Mapping[str, float], total: int, seed: int) -> list[T]:
    """`total` examples, each data set's share from it in shuffled passes: none comes a time more often than another
    of its set. In no order; a trainer shuffles them."""
    return [
        example
        for name, count in whole_shares(shares, total).items()
        for example in PromptStream(examples[name], seed).take(count)
    ]
