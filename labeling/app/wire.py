"""What the HTTP API takes and gives, as OpenAPI documents it. Sides are always in the order shown."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from labeling.app.opinion import SHOWN_AI, ai_opinion
from labeling.app.texts import texts
from labeling.queue.claim import Assigned
from labeling.queue.submit import Answer
from labeling.store import Store
from labeling.views import Message


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(Wire):
    error: str = Field(description="one line that says what is wrong and what to do")


class Me(Wire):
    name: str
    role: Literal["annotator", "lead", "admin"]
    language: str


class Item(Wire):
    """A comparison to label. Nothing in it says which model gave which answer, or why it was chosen."""

    token: str = Field(description="names the assignment in every later call; only its owner can use it")
    prompt: list[Message]
    answers: list[list[Message]] = Field(description="in the order to show: A is 0, B is 1, ...")
    lease_until: datetime = Field(description="submit by then, or another person may get the item")
    ai_opinion: str = Field(description="empty, but in an experiment that shows it; recorded as such")

    @classmethod
    def of(cls, store: Store, assigned: Assigned) -> Item:
        sides = assigned.comparison.sides
        shows_ai = assigned.arm == SHOWN_AI and len(sides) == 2
        return cls(
            token=assigned.token,
            prompt=assigned.comparison.prompt,
            answers=[sides[position][0] for position in assigned.shown_order],
            lease_until=assigned.lease_until,
            ai_opinion=ai_opinion(store, assigned, texts("en")) if shows_ai else "",
        )


class AnswerIn(Wire):
    verdict: Literal["preference", "tie", "both_bad", "ranking"]
    choice: int | None = Field(None, ge=0, le=8, description="preference: the better answer, as shown")
    strength: int = Field(0, ge=0, le=3, description="1 slightly, 2 clearly, 3 much better; 0 not said")
    ranks: list[int] | None = Field(None, description="ranking: one for each answer as shown; 1 is the best")
    rationale: str = Field("", max_length=20_000)
    aspects: dict[str, list[int]] = Field(
        default_factory=dict, description="1..5 for each answer as shown, by aspect"
    )
    seconds: float | None = Field(None, ge=0, description="how long it took")

    def answer(self) -> Answer:
        return Answer(**self.model_dump())


class Recorded(Wire):
    label_id: int
    late: bool = Field(description="the lease had ended and others had taken the places: kept, not counted")


class Reason(Wire):
    reason: str = Field(min_length=1, max_length=2000)
