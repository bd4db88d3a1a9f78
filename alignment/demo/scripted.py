"""Scripted annotators: programs that label in place of people where no people are at hand, and say so.

Their names begin with "scripted-" and their kind is "scripted", in the store and in every report.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from alignment.errors import AlignmentError
from labeling.hashing import content_hash
from labeling.judge.rendering import as_text
from labeling.store import Store
from labeling.views import ComparisonView, NewLabel

NAMES = ("scripted-ann", "scripted-bo", "scripted-cy")
TIE_SHARE = 0.5  # how often two answers of equal quality are called a tie rather than told apart by a coin


def label_with_scripted_annotators(
    store: Store,
    quality: Callable[[str, str], float],
    *,
    names: Sequence[str] = NAMES,
    accuracies: Sequence[float] = (0.95, 0.9, 0.85),
    overlap: int = 2,
    share: float = 1.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Label a `share` of the two-sided comparisons, each by `overlap` of the annotators drawn at random.

    `quality(prompt_text, answer_text)` says how good an answer is; an annotator prefers the better one with the
    probability in `accuracies`. The same seed gives the same labels, and running it again adds none. Returns how
    many comparisons were labelled, and how many labels each annotator gave. `progress(1)` follows each
    comparison looked at. Raises AlignmentError if `names`, `accuracies` and `overlap` do not fit together.
    """
    if len(names) != len(accuracies) or not 1 <= overlap <= len(names):
        raise AlignmentError(
            f"scripted annotators: {len(names)} names, {len(accuracies)} accuracies, overlap {overlap}: "
            "give one accuracy for each name, and an overlap of at most as many"
        )
    ids = [store.annotator(name, "scripted") for name in names]
    counts = Counter({"comparisons": 0} | dict.fromkeys(names, 0))

    def labels() -> Iterator[NewLabel]:
        for comparison in store.comparisons():
            if progress:
                progress(1)
            chance = random.Random(f"{seed}:{comparison.id}")
            if chance.random() >= share or len(comparison.sides) != 2:
                continue
            counts["comparisons"] += 1
            lead = quality_lead(comparison, quality)
            for which in chance.sample(range(len(names)), overlap):
                counts[names[which]] += 1
                yield scripted_label(comparison.id, ids[which], lead, accuracies[which], seed, chance)

    page: list[NewLabel] = []
    for label in labels():
        page.append(label)
        if len(page) >= 500:
            store.add_labels(page)
            page.clear()
    store.add_labels(page)
    return dict(counts)


def quality_lead(comparison: ComparisonView, quality: Callable[[str, str], float]) -> float:
    """By how much the side at position 0 is better than the one at position 1."""
    prompt = as_text(comparison.prompt)
    first, second = (quality(prompt, as_text(messages)) for messages, _ in comparison.sides)
    return first - second


def scripted_label(
    comparison_id: int, annotator_id: int, lead: float, accuracy: float, seed: int, chance: random.Random
) -> NewLabel:
    """One annotator's verdict on a comparison whose position 0 leads by `lead`."""
    order = [0, 1]
    chance.shuffle(order)
    if lead == 0:
        p_first = 0.5 if chance.random() < TIE_SHARE else float(chance.random() < 0.5)
    else:
        p_first = float((lead > 0) == (chance.random() < accuracy))
    return NewLabel(
        comparison_id=comparison_id,
        annotator_id=annotator_id,
        verdict="tie" if p_first == 0.5 else "preference",
        p_first=p_first,
        shown_order=order,
        idempotency_key=content_hash(["scripted", seed, annotator_id, comparison_id]),
    )
