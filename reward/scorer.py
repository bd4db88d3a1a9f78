"""The one interface through which PPO, best-of-n and evaluation ask how good an answer is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from reward.errors import RewardError

Message = dict[str, str]  # {role, content}
Conversation = Sequence[Message]  # a prompt and, last, the assistant's answer


class Scorer(Protocol):
    """Anything that scores answers: a learned reward model, an ensemble, a rule, a remote service."""

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        """One score for each conversation, higher is better. Raises RewardError, never returns NaN."""
        ...


def checked(scores: object, count: int, source: str) -> list[float]:
    """What `source` (a rule, a service) gave, as `count` finite floats. Raises RewardError if it is not that."""
    if not isinstance(scores, Iterable) or isinstance(scores, str | bytes | dict):
        raise RewardError(f"{source} gave a {type(scores).__name__}, not a list of numbers")
    values = list(scores)
    if len(values) != count:
        raise RewardError(
            f"{source} gave {len(values)} scores for {count} conversations: it owes one for each"
        )
    numbers = [as_number(value, source) for value in values]
    bad = [index for index, number in enumerate(numbers) if not math.isfinite(number)]
    if bad:
        raise RewardError(
            f"{source} gave {len(bad)} of {count} scores that are not finite (the first for conversation "
            f"{bad[0] + 1}): mend it"
        )
    return numbers


def as_number(value: object, source: str) -> float:
    if not isinstance(value, str | bytes):
        try:
            return float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            pass
    raise RewardError(f"{source} gave {value!r:.80} for a score, which is not a number")
