"""How the queue runs. Kept in the store, so that every process that serves it reads the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from labeling.queue.slots import read_overlap, recount_all
from labeling.schema import QueueSettingsRow
from labeling.writes import take_turns

if TYPE_CHECKING:
    from labeling.store import Store

Policy = Literal["random", "uncertainty", "judge_doubt"]
Share = Annotated[float, Field(ge=0, le=1)]


class QueueSettings(BaseModel):
    """What a lead may set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    overlap: int = Field(1, ge=1, le=100, description="How many different people label each comparison.")
    gold_share: Share = Field(
        0.0, description="Share of items whose answer is declared: they measure the annotator."
    )
    repeat_share: Share = Field(
        0.0, description="Share of items that the annotator has labelled before: they measure consistency."
    )
    repeat_after: int = Field(
        20, ge=1, description="Labels by the same person between an item and its repeat."
    )
    lease_minutes: float = Field(
        30.0, gt=0, le=10_080, description="How long an item is kept for whoever opened it."
    )
    policy: Policy = Field(
        "random",
        description="What comes first among items of the same priority: a random one, the most uncertain by the "
        "comparison's own column, or the one whose judge was the least sure.",
    )
    seed: int = Field(0, description="Of the draws: sides, gold, repeats, arms.")
    aspects: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        [],
        max_length=6,
        description="What each side is also rated on, 1 to 5, e.g. helpful, honest, harmless.",
    )
    rationale_below: int = Field(
        0, ge=0, le=3, description="A rationale is required up to this strength; 0: never."
    )
    guidelines: str = Field("", max_length=100_000, description="The project's guidelines, in Markdown.")
    show_ai_share: Share = Field(
        0.0,
        description="Share of items on which the annotator sees the judge's opinion: an experiment, recorded as such.",
    )

    @model_validator(mode="after")
    def shares_fit(self) -> Self:
        if self.gold_share + self.repeat_share > 1:
            raise ValueError("gold_share and repeat_share together are at most 1")
        return self


def read_settings(store: Store) -> QueueSettings:
    """The settings in force; the defaults where none were saved."""
    with store.engine.connect() as connection:
        found = connection.execute(select(QueueSettingsRow.settings)).scalar()
    return QueueSettings.model_validate(found or {})


def save_settings(store: Store, settings: QueueSettings) -> None:
    """Put `settings` in force. Another overlap changes at once how many people are wanted on what is there."""
    with store.begin() as session:
        take_turns(
            session
        )  # comparisons that are being added get their slots by the old overlap or the new one
        before = read_overlap(session)
        session.merge(QueueSettingsRow(id=1, settings=settings.model_dump(mode="json")))
        session.flush()
        if settings.overlap != before:
            recount_all(session)


def settings_of(session: Session) -> QueueSettings:
    """`read_settings` within a transaction."""
    return QueueSettings.model_validate(session.scalar(select(QueueSettingsRow.settings)) or {})
