"""Live pairs: two answers of a policy, handed to the lead like any other comparison."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from labeling.app.live import ask_live
from labeling.errors import LabelingError
from labeling.queue.claim import claim
from labeling.queue.settings import QueueSettings, save_settings
from labeling.queue.submit import Answer, submit


class Scripted:
    """A policy that says what it was given, in turn."""

    name = "scripted-policy"

    def __init__(self, *answers: str) -> None:
        self._answers: Iterator[str] = iter(answers)

    def __call__(self, prompt: list[dict[str, str]], count: int) -> list[str]:
        return [next(self._answers) for _ in range(count)]


def test_a_live_pair_is_labelled_like_any_other(store, ask):
    save_settings(store, QueueSettings(overlap=2))
    lea, ben = store.annotator("lea", "human"), store.annotator("ben", "human")
    assigned = ask_live(store, Scripted("one", "two"), ask("hello"), lea)
    assert (assigned.policy, assigned.purpose, assigned.state) == ("live", "label", "leased")
    assert {model for _, model in assigned.comparison.sides} == {"scripted-policy"}
    shown = [assigned.comparison.sides[place][0][0]["content"] for place in assigned.shown_order]
    submit(store, assigned.token, lea, Answer("preference", choice=0, strength=3), key="k")
    (label,) = store.effective_labels()
    preferred = assigned.comparison.sides[0 if label.p_first == 1.0 else 1][0][0]["content"]
    assert preferred == shown[0]
    assert claim(store, lea) is None
    second = claim(store, ben)  # the overlap wants one more person, and no third
    assert second is not None
    assert second.comparison.id == assigned.comparison.id
    assert claim(store, store.annotator("cat", "human")) is None


def test_what_cannot_be_compared_says_so(store, ask):
    lea = store.annotator("lea", "human")
    for answers, says in ((("same", " same "), "same answer twice"), (("x", "  "), "empty answer")):
        with pytest.raises(LabelingError, match=says):
            ask_live(store, Scripted(*answers), ask("hello"), lea)
    assert store.counts()["comparisons"] == 0


def test_the_same_pair_is_not_answered_twice(store, ask):
    lea = store.annotator("lea", "human")
    assigned = ask_live(store, Scripted("one", "two"), ask("hello"), lea)
    again = ask_live(store, Scripted("two", "one"), ask("hello"), lea)
    assert again.token == assigned.token  # still open: the same lease
    submit(store, assigned.token, lea, Answer("tie"), key="k")
    with pytest.raises(LabelingError, match="compared before"):
        ask_live(store, Scripted("one", "two"), ask("hello"), lea)
