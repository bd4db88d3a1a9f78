"""What each judge said of a comparison, and what is made of it: the verdict, and whether people are to look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labeling.judge.config import JudgeConfig
from labeling.judge.judge import Judge, Question
from labeling.judge.panel import agree_on, is_split
from labeling.judge.parsing import ReplyReading
from labeling.judge.routing import Why, why_people
from labeling.judge.verdict import Seen, Verdict
from labeling.views import ComparisonView


@dataclass(frozen=True)
class Opinion:
    """What one judge said of one comparison."""

    judge: Judge
    questions: list[Question]
    readings: list[ReplyReading]

    @property
    def verdict(self) -> Verdict:
        return self.judge.verdict(self.questions, self.readings)

    @property
    def call_keys(self) -> list[str]:
        return [question.call.key for question in self.questions]

    def detail(self, comparison: ComparisonView) -> dict[str, Any]:
        """What each reply said, and what was drawn, as the store keeps it."""
        seen = zip(self.questions, self.readings, strict=True)
        readings = [Seen(question.order, reading).as_dict() for question, reading in seen]
        principles = self.judge.principles(comparison)
        return {"readings": readings} | ({"principles": principles} if principles else {})


@dataclass(frozen=True)
class Decision:
    verdict: Verdict
    why_people: Why
    detail: dict[str, Any]


def decide(comparison: ComparisonView, opinions: Sequence[Opinion], config: JudgeConfig) -> Decision:
    """The one judge's verdict, or what the panel makes of its members'."""
    verdicts = [opinion.verdict for opinion in opinions]
    if not config.panel:
        [verdict], detail = verdicts, opinions[0].detail(comparison)
    else:
        weights = [opinion.judge.config.weight for opinion in opinions]
        verdict = agree_on(list(zip(verdicts, weights, strict=True)), config.panel_rule, config.tie_band)
        members = {
            opinion.judge.config.annotator: {"outcome": one.outcome, "p_first": one.p_first, "weight": weight}
            for opinion, one, weight in zip(opinions, verdicts, weights, strict=True)
        }
        detail = {"members": members}
    return Decision(verdict, why_people(verdict, config.route, split=is_split(verdicts)), detail)
