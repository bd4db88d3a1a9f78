"""Several rewards added up: a learned one and rules beside it, say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reward.ensemble import means, opinions
from reward.errors import RewardError
from reward.scorer import Conversation, Scorer


class Total:
    """The weighted sum of its parts' scores. Where one of them is an ensemble, its members' disagreement stays."""

    def __init__(self, parts: Sequence[tuple[Scorer, float]]) -> None:
        self.parts = list(parts)

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        return means(self.opinions(conversations))

    def opinions(self, conversations: Sequence[Conversation]) -> list[list[float]]:
        """Raises RewardError where two parts have members, of different numbers: whose go together is not said."""
        given = [
            weight * np.asarray(opinions(scorer, conversations), float).reshape(len(conversations), -1)
            for scorer, weight in self.parts
        ]
        several = sorted({columns.shape[1] for columns in given} - {0, 1})
        if len(several) > 1:
            raise RewardError(
                f"the ensembles in a sum have {' and '.join(map(str, several))} members: give them as many each"
            )
        return sum(given[1:], given[0]).tolist()  # type: ignore[no-any-return]
