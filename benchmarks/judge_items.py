"""Comparisons for the judge's benchmarks: two invitations each, one politer than the other."""

from __future__ import annotations

from labeling.store import Store
from labeling.views import NewComparison, NewCompletion


def fill(store: Store, comparisons: int, repeats: int = 1) -> None:
    """As long as a short chat. Each text stands in `repeats` comparisons, of answers by different models."""
    polite = (
        "Good evening! Would you please come to dinner with us on Friday? We would be very glad to see you."
    )
    curt = "Dinner is on Friday. Come at eight, and bring something to drink. We have no room for your dog, sorry."

    def answer(text: str, i: int) -> NewCompletion:
        return NewCompletion([{"role": "assistant", "content": text}], f"model-{i % repeats}")

    store.add_comparisons(
        NewComparison(
            [
                {
                    "role": "user",
                    "content": f"Invite guest number {i // repeats} to dinner on Friday, in two sentences.",
                }
            ],
            [answer(polite, i), answer(curt, i)]
            if i // repeats % 2
            else [answer(curt, i), answer(polite, i)],
        )
        for i in range(comparisons)
    )
