"""What people's labels and the judge's are each worth: the same reward model trained on one kind, the other, both.

Whether mixing helps differs from task to task, so it is measured on the data at hand, on people's held-out labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from alignment.console import note
from labeling.snapshot import draw
from reward.errors import RewardError

if TYPE_CHECKING:
    from datasets import Dataset

JUDGE = "judge"
SHARES = (0.25, 0.5)  # of people's labels, before all of them
Train = Callable[
    [str, "Dataset", "Dataset"], dict[str, Any]
]  # (name, train, test) -> a card's `test` figures


def study(train: Dataset, test: Dataset, train_on: Train, *, curve: bool) -> dict[str, Any]:
    """{"people_only", "judge_only", "mixed": figures on people's held-out labels}; with `curve` also "curve", figures
    by the count of people's labels beside all of the judge's, and "worth_of_100": accuracy that 100 more would add.

    Empty where there are not labels of both kinds, or none of people's held out.
    """
    people, judge, held_out = rows(train, JUDGE, False), rows(train, JUDGE, True), rows(test, JUDGE, False)
    if not (people and judge and held_out):
        return {}
    exam = test.select(held_out)
    both = range(len(train))
    parts = {"people_only": people, "judge_only": judge, "mixed": both}
    found: dict[str, Any] = {}
    for name, part in parts.items():
        found[name] = examine(train_on, name, train, part, exam) | {"train_pairs": len(part)}
    if curve:
        points = []
        for share in SHARES:
            some = [row for row in people if draw(train[row]["group"], 1) < share]
            if some:
                figures = examine(train_on, f"{len(some)} people's labels", train, [*judge, *some], exam)
                points.append(figures | {"people_labels": len(some)})
        points.append(found["mixed"] | {"people_labels": len(people)})
        found |= {"curve": points, "worth_of_100": worth_of_100(points)}
    return found


def rows(pairs: Dataset, source: str, wanted: bool) -> list[int]:
    return (
        [row for row, name in enumerate(pairs["source"]) if (name == source) is wanted] if len(pairs) else []
    )


def examine(train_on: Train, name: str, train: Dataset, part: Sequence[int], exam: Dataset) -> dict[str, Any]:
    """Figures of a model trained on a part; where nothing could be learned from it, only the reason why."""
    try:
        return train_on(name, train.select(part), exam)
    except RewardError as error:
        return {"accuracy": None, "reason": str(error)}


def worth_of_100(points: Sequence[dict[str, Any]]) -> float | None:
    """By how much accuracy rises with the next 100 of people's labels, if it goes on growing with their logarithm as it
    did over the points (least squares). None where fewer than two points have an accuracy."""
    known = [(math.log(p["people_labels"]), p["accuracy"]) for p in points if p["accuracy"] is not None]
    x_mean, y_mean = (
        (sum(column) / len(known) for column in zip(*known, strict=True)) if known else (0.0, 0.0)
    )
    spread = sum((x - x_mean) ** 2 for x, _ in known)
    if not spread:
        return None
    slope = sum((x - x_mean) * (y - y_mean) for x, y in known) / spread
    count = points[-1]["people_labels"]
    return float(slope * (math.log(count + 100) - math.log(count)))


def tell(found: dict[str, Any]) -> None:
    """The study in lines for the terminal."""
    for name in ("people_only", "judge_only", "mixed"):
        if name in found:
            note(f"reward: {name.replace('_', ' '):<11} {in_words(found[name])}")
    for point in found.get("curve", []):
        note(f"reward: {point['people_labels']} people's labels beside the judge's: {in_words(point)}")
    if found.get("worth_of_100") is not None:
        note(
            f"reward: 100 more of people's labels: about {100 * found['worth_of_100']:+.1f} points of accuracy"
        )


def in_words(figures: dict[str, Any]) -> str:
    if figures["accuracy"] is None:
        return f"not measured ({figures.get('reason', 'no held-out pair has a preference')})"
    return (
        "accuracy {accuracy:.3f} ({accuracy_low:.3f} to {accuracy_high:.3f}) on {pairs} of people's held-out pairs"
    ).format(**figures)
