"""Several scorers as one. Where they disagree, the answer is unlike what they learned from (Coste et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from reward.scorer import Conversation, Scorer


class Ensemble:
    """The mean of its members' scores. The members should score on one scale: learned ones normalised."""

    def __init__(self, members: Sequence[Scorer]) -> None:
        self.members = list(members)

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        return [sum(each) / len(each) for each in opinions(self, conversations)]


def opinions(scorer: Scorer, conversations: Sequence[Conversation]) -> list[list[float]]:
    """For each conversation the scores that an ensemble's members give it; a list of one from any other scorer."""
    members = scorer.members if isinstance(scorer, Ensemble) else [scorer]
    return [list(each) for each in zip(*(m.score(conversations) for m in members), strict=True)]
