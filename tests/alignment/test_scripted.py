"""Scripted annotators: as right as they are told to be, repeatable, and named for what they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from alignment.demo.scripted import NAMES, label_with_scripted_annotators
from alignment.errors import AlignmentError
from labeling.store import Store
from labeling.views import NewComparison, NewCompletion

N = 600


def quality(_prompt: str, answer: str) -> float:
    return 1.0 if "please" in answer else 0.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled(tmp_path / "a.db")


def filled(path: Path, n: int = N, worse: str = "come") -> Store:
    store = Store.open(str(path))
    sides = [NewCompletion([{"role": "assistant", "content": text}]) for text in ("please come", worse)]
    store.add_comparisons(
        NewComparison([{"role": "user", "content": f"Invite {i}."}], sides) for i in range(n)
    )
    return store


def test_two_of_three_label_each_as_right_as_told(store):
    accuracies = (1.0, 0.9, 0.6)
    counts = label_with_scripted_annotators(store, quality, accuracies=accuracies)
    labels = list(store.effective_labels())
    assert counts == {"comparisons": N} | Counter(label.annotator for label in labels)
    assert len(labels) == 2 * N
    assert set(Counter(label.comparison_id for label in labels).values()) == {2}
    assert {(label.annotator, label.kind) for label in labels} == {(name, "scripted") for name in NAMES}
    assert {label.verdict for label in labels} == {"preference"}
    for name, accuracy in zip(NAMES, accuracies, strict=True):
        right = [label.p_first for label in labels if label.annotator == name]  # side 0 is the better one
        assert set(right) <= {0.0, 1.0}
        # 5 standard errors: a fair annotator passes but for one seed in a million
        assert abs(sum(right) / len(right) - accuracy) <= 5 * (accuracy * (1 - accuracy) / len(right)) ** 0.5
    swapped = sum(label.shown_order == [1, 0] for label in labels)
    assert abs(swapped - N) < 5 * (2 * N * 0.25) ** 0.5


def test_the_same_seed_gives_the_same_labels_and_adds_none(tmp_path):
    def labels(name, seed):
        store = filled(tmp_path / name, 50)
        label_with_scripted_annotators(store, quality, seed=seed)
        return [
            (lb.comparison_id, lb.annotator, lb.p_first, lb.shown_order) for lb in store.effective_labels()
        ]

    assert labels("a.db", 0) == labels("b.db", 0)
    assert labels("a.db", 0) == labels("b.db", 0)  # again, on the same stores
    assert labels("c.db", 1) != labels("a.db", 0)


def test_a_share(store):
    counts = label_with_scripted_annotators(store, quality, share=0.25, overlap=1)
    assert 100 < counts["comparisons"] < 200  # 150 expected, standard deviation 11
    assert store.counts()["labels"] == counts["comparisons"]


def test_equal_answers_are_sometimes_a_tie(tmp_path):
    store = filled(tmp_path / "a.db", 200, worse="come, please")
    label_with_scripted_annotators(store, quality)
    said = Counter((label.verdict, label.p_first) for label in store.effective_labels())
    assert set(said) == {("tie", 0.5), ("preference", 0.0), ("preference", 1.0)}
    assert 140 < said["tie", 0.5] < 260


def test_settings_that_do_not_fit(store):
    for wrong in ({"overlap": 4}, {"overlap": 0}, {"accuracies": (0.9,)}):
        with pytest.raises(AlignmentError, match="one accuracy for each name"):
            label_with_scripted_annotators(store, quality, **wrong)
    assert store.counts()["labels"] == 0
