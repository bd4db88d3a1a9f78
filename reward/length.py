"""Whether scores go by length. n = pairs; every array is (n,)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def length_figures(
    chosen: ArrayLike, rejected: ArrayLike, p_chosen: ArrayLike, extra_tokens: ArrayLike
) -> dict[str, float | None]:
    """How scores and labels go with length; extra_tokens: the chosen answer's tokens less the rejected one's.

    length_correlation: of score difference and length difference within pairs, so that prompts which ask for long
    answers do not count. longer_scored_higher, longer_preferred: share of the pairs of unlike length in which the
    longer answer has the higher score, and the chance that the label prefers it. None where nothing differs.
    """
    gap = np.asarray(chosen, float) - np.asarray(rejected, float)
    extra, p = np.asarray(extra_tokens, float), np.asarray(p_chosen, float)
    unlike = extra != 0
    if not unlike.any():
        return dict.fromkeys(("length_correlation", "longer_scored_higher", "longer_preferred"))
    longer = extra[unlike] > 0
    wins = (1 + np.sign(gap[unlike])) / 2
    return {
        "length_correlation": correlation(gap, extra),
        "longer_scored_higher": float(np.where(longer, wins, 1 - wins).mean()),
        "longer_preferred": float(np.where(longer, p[unlike], 1 - p[unlike]).mean()),
    }


def correlation(one: ArrayLike, other: ArrayLike) -> float | None:
    """Pearson's about 0 rather than the means: which side comes first is no more than a name, so swapping the sides of
    a pair changes nothing. None where one is all 0."""
    x, y = np.asarray(one, float), np.asarray(other, float)
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else None
