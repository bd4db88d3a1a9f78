"""How people use the scale."""

from __future__ import annotations

import numpy as np

from labeling.figures.table import UNKNOWN, LabelTable
from labeling.views import PEOPLE

STEPS = (
    "A much better",
    "A better",
    "A slightly better",
    "about the same",
    "B slightly better",
    "B better",
    "B much better",
    "both bad",
)


def strength_histogram(table: LabelTable) -> dict[str, int]:
    """People's labels by step of the scale as they saw it: A is the side that was shown first."""
    seen = table.where(table.of_kind(*PEOPLE) & (table.left != UNKNOWN))
    steps = seen.step()
    as_shown = np.where(seen.left == 0, steps, -steps)
    counts = np.bincount((3 - as_shown[~np.isnan(as_shown)]).astype(np.int64), minlength=7)
    both_bad = int(seen.of_verdict("both_bad").sum())
    return dict(zip(STEPS, [*map(int, counts), both_bad], strict=True))
