"""What the form holds, as the answer that the queue records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labeling.app.texts import Texts
from labeling.errors import LabelingError
from labeling.queue.answers import Answer, needs_rationale
from labeling.queue.settings import QueueSettings

STEPS, EVEN = 7, 4  # of the scale: how many, and the middle
BOTH_BAD = 8  # stands beside the scale
LONGEST_RATIONALE = 20_000
SIDES, GRADES = 2, 5


@dataclass(frozen=True)
class Filled:
    """The form as it was sent. Everything in it comes from the browser and may be anything."""

    step: int | None  # 1 (A much better) .. 7 (B much better), or BOTH_BAD
    ranks: Sequence[int | None]  # for each answer as shown
    all_bad: bool
    aspects: Mapping[str, Sequence[int | None]]  # for each side as shown, 1..5
    rationale: str
    seconds: str


def to_answer(filled: Filled, sides: int, settings: QueueSettings, texts: Texts) -> Answer:
    """The answer that was given on an item of so many sides.

    Raises LabelingError, in the annotator's language, where something is still missing.
    """
    common: dict[str, Any] = {
        "rationale": filled.rationale.strip()[:LONGEST_RATIONALE],
        "seconds": to_seconds(filled.seconds, settings.lease_minutes),
    }
    if sides > SIDES:
        if filled.all_bad:
            return Answer("both_bad", **common)
        return Answer("ranking", ranks=chosen(filled.ranks[:sides], sides, texts.rank_first), **common)
    common["aspects"] = {name: list(given) for name, given in filled.aspects.items() if all_in(given, GRADES)}
    answer = on_scale(filled.step, texts, **common)
    if needs_rationale(answer, settings) and not answer.rationale:
        raise LabelingError(texts.rationale_first)
    return answer


def on_scale(step: int | None, texts: Texts, **more: Any) -> Answer:
    """The answer that a step of the scale, or BOTH_BAD beside it, stands for. Raises LabelingError for none."""
    if step == BOTH_BAD:
        return Answer("both_bad", **more)
    [step] = chosen([step], STEPS, texts.choose_first)
    if step == EVEN:
        return Answer("tie", **more)
    return Answer("preference", choice=int(step > EVEN), strength=abs(step - EVEN), **more)


def chosen(values: Sequence[int | None], most: int, missing: str) -> list[int]:
    """The values, each a whole number from 1 to `most`. Raises LabelingError saying what is missing."""
    if not all_in(values, most):
        raise LabelingError(missing)
    return [value for value in values if value is not None]


def all_in(values: Sequence[int | None], most: int) -> bool:
    """Whether every value is a whole number from 1 to `most`."""
    return all(type(value) is int and 1 <= value <= most for value in values)


def to_seconds(text: str, lease_minutes: float) -> float | None:
    """How long the item was looked at, as the page measured it; None where that cannot be."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds <= lease_minutes * 60 else None
