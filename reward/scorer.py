"""The one interface through which PPO, best-of-n and evaluation ask how good an answer is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Message = dict[str, str]  # {role, content}
Conversation = Sequence[Message]  # a prompt and, last, the assistant's answer


class Scorer(Protocol):
    """Anything that scores answers: a learned reward model, an ensemble, a rule, a remote service."""

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        """One score for each conversation, higher is better. Raises RewardError, never returns NaN."""
        ...
