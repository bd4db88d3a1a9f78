"""chrF, the overlap of character runs with what people wrote (Popović 2015), on a scale of 0 to 100."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

ORDER, BETA = 6, 2.0  # runs of 1 to 6 characters; recall counts BETA times as much as precision


def chrf(answer: str, references: Sequence[str]) -> float:
    """The best over the references. Spaces do not count. Raises ValueError if there are none."""
    return max(against(runs(answer), runs(reference)) for reference in references)


def against(answer: Sequence[Counter[str]], reference: Sequence[Counter[str]]) -> float:
    """F-score of precision and recall, each the mean over those lengths that both texts have runs of."""
    both = [(a, r, (a & r).total()) for a, r in zip(answer, reference, strict=True) if a and r]
    if not both:
        return 0.0
    precision = sum(shared / a.total() for a, _, shared in both) / len(both)
    recall = sum(shared / r.total() for _, r, shared in both) / len(both)
    if not precision + recall:
        return 0.0
    return 100 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


@cache  # references are asked for again and again
def runs(text: str) -> list[Counter[str]]:
    """How often each run of characters comes, a counter for each length."""
    text = "".join(text.split())
    return [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(1, ORDER + 1)]
