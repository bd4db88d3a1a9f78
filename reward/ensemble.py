"""Several scorers as one. Where they disagree, the answer is unlike what they learned from (Coste et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reward.scorer import Conversation, Scorer


class Ensemble:
    """The mean of its members' scores. The members should score on one scale: learned ones normalised."""

    def __init__(self, members: Sequence[Scorer]) -> None:
        self.members = list(members)

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        return means(self.opinions(conversations))

    def opinions(self, conversations: Sequence[Conversation]) -> list[list[float]]:
        return [
            list(each) for each in zip(*(member.score(conversations) for member in self.members), strict=True)
        ]


class Cautious:
    """A scorer whose score is its members' mean less `caution` standard deviations (Coste et al. 2023, eq. 4).

    Every member's opinion is lowered by as much, so that they disagree as before.
    """

    def __init__(self, scorer: Scorer, caution: float) -> None:
        self.scorer, self.caution = scorer, caution

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        return means(self.opinions(conversations))

    def opinions(self, conversations: Sequence[Conversation]) -> list[list[float]]:
        given = np.asarray(opinions(self.scorer, conversations), float).reshape(len(conversations), -1)
        return (given - self.caution * given.std(1, keepdims=True)).tolist()  # type: ignore[no-any-return]


def opinions(scorer: Scorer, conversations: Sequence[Conversation]) -> list[list[float]]:
    """For each conversation the scores that a scorer's members give it; a list of one from one without members."""
    if hasattr(scorer, "opinions"):
        return scorer.opinions(conversations)  # type: ignore[no-any-return]
    return [[score] for score in scorer.score(conversations)]


def means(given: Sequence[Sequence[float]]) -> list[float]:
    return [sum(each) / len(each) for each in given]
