"""`align reward rate`: where reward models disagree which answer is better, a label is worth most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from sqlalchemy import update

from alignment.console import progress_bar
from alignment.errors import AlignmentError
from alignment.scorers import reward_folder
from labeling.schema import Comparison
from labeling.store import Store
from labeling.views import ComparisonView
from reward.calibration import win_chance
from reward.ensemble import opinions
from reward.scorer import Scorer
from reward.specs import open_scorer

PAGE = 256  # comparisons scored and written together


def rate_comparisons(store: Store, models: Sequence[str]) -> dict[str, Any]:
    """Write each comparison's `uncertainty`, which the queue's policy of that name reads. Returns counts and the mean.

    models: reward model folders or runs; one is enough if it has several members.
    """
    specs = [reward_folder(model) for model in models]
    scorer = open_scorer(specs[0] if len(specs) == 1 else specs)
    found: list[float] = []
    with progress_bar("rating", store.count_comparisons()) as advance:
        for page in pages(store.comparisons()):
            rated = rate(scorer, page)
            with store.begin() as session:
                session.execute(update(Comparison), rated)
            found += [row["uncertainty"] for row in rated]
            advance(len(page))
    if not found:
        raise AlignmentError("the store has no comparison to rate: import or roll some out first")
    return {"comparisons": len(found), "mean": float(np.mean(found)), "highest": max(found)}


def rate(scorer: Scorer, page: Sequence[ComparisonView]) -> list[dict[str, Any]]:
    """{id, uncertainty} of each comparison: 0..1/2, the standard deviation between members of the chance that one side
    beats another; of several pairs of sides, the highest. Raises AlignmentError where there is one member only."""
    conversations = [[*view.prompt, *messages] for view in page for messages, _ in view.sides]
    scores = iter(opinions(scorer, conversations))
    rated = []
    for view in page:
        sides = np.array([next(scores) for _ in view.sides])  # (sides, members)
        if sides.shape[1] < 2:
            raise AlignmentError(
                "one reward model has nobody to disagree with: give several, or one trained with members=4"
            )
        pairs = [(i, j) for i in range(len(sides)) for j in range(i)]
        spread = [float(win_chance(sides[i], sides[j]).std()) for i, j in pairs]
        rated.append({"id": view.id, "uncertainty": max(spread, default=0.0)})
    return rated


def pages(views: Iterator[ComparisonView]) -> Iterator[list[ComparisonView]]:
    while page := list(islice(views, PAGE)):
        yield page
