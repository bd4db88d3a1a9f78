"""Comparisons for the judge's benchmarks: two invitations each, one politer than the other."""

from __future__ import annotations

from labeling.store import Store
from labeling.views import NewComparison, NewCompletion


def fill(store: Store, comparisons: int) -> None:
    """As long as a short chat: about 700 characters a request."""
    polite = (
        "Good evening! Would you please come to dinner with us on Friday? We would be very glad to see you."
    )
    curt = "Dinner is on Friday. Come at eight, and bring something to drink. We have no room for your dog, sorry."

    def answer(text: str) -> NewCompletion:
        return NewCompletion([{"role": "assistant", "content": text}])

    store.add_comparisons(
        NewComparison(
            [{"role": "user", "content": f"Invite guest number {i} to dinner on Friday, in two sentences."}],
            [answer(polite), answer(curt)] if i % 2 else [answer(curt), answer(polite)],
        )
        for i in range(comparisons)
    )
