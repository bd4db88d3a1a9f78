"""From an answer about the sides as shown to a label about the sides as stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from labeling.errors import LabelingError
from labeling.queue.settings import QueueSettings
from labeling.views import NewLabel, Purpose, Verdict

GRADES = range(1, 6)
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What an annotator says of the sides in the order in which they were shown."""

    verdict: Verdict
    choice: int | None = None  # the place of the better side as shown, for a preference
    strength: int = 0  # 1 slightly, 2 clearly, 3 much better; 0 unknown
    ranks: list[int] | None = (
        None  # for a ranking: of each side as shown, 1 is the best, equal ranks are ties
    )
    rationale: str = ""
    aspects: dict[str, list[int]] = field(default_factory=dict)  # 1..5 for each side as shown
    seconds: float | None = None


def check_answer(answer: Answer, sides: int, settings: QueueSettings) -> None:
    """Raises LabelingError for what the store's own checks do not see."""
    if answer.verdict == "preference" and answer.choice not in range(sides):
        problem = f"a preference names the better side, 0 to {sides - 1} as shown, not {answer.choice!r}"
    elif answer.verdict == "ranking" and len(answer.ranks or []) != sides:
        problem = f"a ranking of {sides} sides needs that many ranks (1 is the best), not {answer.ranks!r}"
    elif any(len(grades) != sides or not set(grades) <= set(GRADES) for grades in answer.aspects.values()):
        problem = f"each aspect needs a grade from 1 to 5 for each of {sides} sides"
    elif needs_rationale(answer, settings) and not answer.rationale.strip():
        problem = "say why: the project asks for a rationale when the sides are this close"
    else:
        return
    raise LabelingError(f"label not recorded: {problem}")


def needs_rationale(answer: Answer, settings: QueueSettings) -> bool:
    graded = answer.verdict in ("preference", "tie")
    return graded and 0 < settings.rationale_below >= answer.strength


def as_label(
    answer: Answer,
    order: Sequence[int],
    *,
    comparison_id: int,
    annotator_id: int,
    key: str,
    purpose: Purpose,
    assignment_id: int | None = None,
    supersedes_id: int | None = None,
) -> NewLabel:
    """The answer in stored order; `order` holds the stored positions as they were shown."""
    meta: dict[str, Any] = {}
    if answer.verdict == "ranking":
        meta["ranks"] = as_stored(answer.ranks or [], order)
    if answer.aspects:
        meta["aspects"] = {name: as_stored(grades, order) for name, grades in answer.aspects.items()}
    choice = answer.choice if answer.verdict == "preference" else None
    return NewLabel(
        comparison_id=comparison_id,
        annotator_id=annotator_id,
        verdict=answer.verdict,
        p_first=0.5 if choice is None else float(order[choice] == 0),
        shown_order=order,
        idempotency_key=key,
        strength=0 if choice is None else answer.strength,
        rationale=answer.rationale,
        seconds=seconds(answer.seconds),
        meta=meta,
        assignment_id=assignment_id,
        supersedes_id=supersedes_id,
        purpose=purpose,
    )


def as_stored(values: Sequence[T], order: Sequence[int]) -> list[T]:
    """Values of the sides as shown, in stored order."""
    by_position = dict(zip(order, values, strict=True))
    return [by_position[position] for position in range(len(order))]


def seconds(given: float | None) -> float | None:
    """As the page measured it; None if that cannot be."""
    return given if given is not None and math.isfinite(given) and given >= 0 else None
