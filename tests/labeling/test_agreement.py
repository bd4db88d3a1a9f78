"""Agreement figures against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling.agreement import (
    alpha_interval,
    alpha_of_counts,
    cohen_kappa,
    count_values,
    fleiss_kappa,
    judges_against_people,
    krippendorff_alpha,
    people_agreement,
    raw_agreement,
)
from labeling.errors import LabelingError
from labeling.figures.table import read_table
from labeling.views import NewLabel


def test_raw_agreement():
    assert raw_agreement("aabb", "aaba") == 0.75
    for first, second in [("", ""), ("ab", "a")]:
        with pytest.raises(LabelingError, match="same items"):
            raw_agreement(first, second)


def test_cohen_kappa_by_hand():
    # 20 both yes, 5 yes/no, 10 no/yes, 15 both no: p_o = 35/50, p_e = .5*.6 + .5*.4 = .5
    first = "y" * 25 + "n" * 25
    second = "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa("ab", "ba") == pytest.approx(-1.0)
    assert math.isnan(cohen_kappa("aa", "aa"))


def test_krippendorff_alpha_by_hand():
    # Two coders, ten items of 0 and 1, six alike: Krippendorff (2011), section A.
    first = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    second = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert krippendorff_alpha(zip(first, second, strict=True)) == pytest.approx(0.095, abs=5e-4)


# Four coders, twelve items with gaps: Krippendorff (2011), section C; the last item has one value.
FOUR_CODERS = [
    [1, 1, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4], [4, 4, 4, 4],
    [1, 1, 2, 1], [2, 2, 2, 2], [5, 5, 5], [1, 1], [3],
]  # fmt: skip

# Thirty patients, six psychiatrists, five diagnoses: Fleiss (1971), table 1.
DIAGNOSES = [
    [0, 0, 0, 6, 0], [0, 3, 0, 0, 3], [0, 1, 4, 0, 1], [0, 0, 0, 0, 6], [0, 3, 0, 3, 0], [2, 0, 4, 0, 0],
    [0, 0, 4, 0, 2], [2, 0, 3, 1, 0], [2, 0, 0, 4, 0], [0, 0, 0, 0, 6], [1, 0, 0, 5, 0], [1, 1, 0, 4, 0],
    [0, 3, 3, 0, 0], [1, 0, 0, 5, 0], [0, 2, 0, 3, 1], [0, 0, 5, 0, 1], [3, 0, 0, 1, 2], [5, 1, 0, 0, 0],
    [0, 2, 0, 4, 0], [1, 0, 2, 0, 3], [0, 0, 0, 0, 6], [0, 1, 0, 5, 0], [0, 2, 0, 1, 3], [2, 0, 0, 4, 0],
    [1, 0, 0, 4, 1], [0, 5, 0, 1, 0], [4, 0, 0, 0, 2], [0, 2, 0, 4, 0], [1, 0, 5, 0, 0], [0, 0, 0, 0, 6],
]  # fmt: skip


def test_krippendorff_alpha_with_values_missing():
    assert krippendorff_alpha(FOUR_CODERS) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(FOUR_CODERS, "ordinal") == pytest.approx(0.815, abs=5e-4)


def test_ordinal_alpha_by_hand():
    # Items (1,1), (1,2), (3,3): totals 3, 1, 2 stand at 1.5, 3.5, 5; squared distances 4, 12.25, 2.25.
    # Observed 2*4; expected 2*(3*1*4 + 3*2*12.25 + 1*2*2.25) = 180; alpha = 1 - 5*8/180
    assert krippendorff_alpha([[1, 1], [1, 2], [3, 3]], "ordinal") == pytest.approx(1 - 40 / 180)


def test_fleiss_kappa_as_published():
    assert fleiss_kappa(np.array(DIAGNOSES)) == pytest.approx(0.430, abs=5e-4)


def test_fleiss_kappa_by_hand():
    # Two raters, items aa, ab, bb and one with a single rater: P = 2/3, P_e = 1/2.
    counts = np.array([[2, 0], [1, 1], [0, 2], [1, 0]])
    assert fleiss_kappa(counts) == pytest.approx(1 / 3)
    assert math.isnan(fleiss_kappa(np.array([[2, 0], [3, 0]])))
    assert math.isnan(fleiss_kappa(np.array([[1, 0]])))


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
def test_the_interval_of_alpha_is_that_of_resampled_items(level):
    counts = count_values(FOUR_CODERS * 5)
    low, high = alpha_interval(counts, level)
    assert low < alpha_of_counts(counts, level) < high
    assert alpha_interval(counts, level) == (low, high)  # the same draws each time
    rng = np.random.default_rng(1)
    kept = counts[counts.sum(axis=1) > 1]
    plain = [alpha_of_counts(kept[rng.integers(len(kept), size=len(kept))], level) for _ in range(1000)]
    assert (low, high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.02)


def test_a_hundred_times_the_items_give_a_tenth_of_the_interval():
    small, large = (alpha_interval(count_values(FOUR_CODERS * n)) for n in (2, 200))
    assert 7 < (small[1] - small[0]) / (large[1] - large[0]) < 14


def test_no_interval_without_anything_to_compare():
    assert all(math.isnan(end) for end in alpha_interval(count_values([[1], [2]])))
    assert all(math.isnan(end) for end in alpha_interval(count_values([[1, 1]])))


def test_alpha_without_anything_to_compare():
    assert math.isnan(krippendorff_alpha([]))
    assert math.isnan(krippendorff_alpha([[1], [2]]))
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1]]))


@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=5), min_size=1, max_size=20))
def test_alpha_is_one_exactly_when_all_agree(units):
    alpha = krippendorff_alpha(units)
    if len({value for unit in units for value in unit}) > 1:
        assert alpha <= 1.0
        assert (alpha == 1.0) == all(len(set(unit)) == 1 for unit in units)


def test_judges_against_people(store, ask, answer):
    def comparison(i: int, people: list[float], judge: float | None) -> None:
        added = store.add_comparison(ask(f"q{i}"), [answer("a"), answer("b")]).comparison_id
        for n, p in enumerate(people):
            name, kind = ("scripted-1", "scripted") if n == 0 else (f"person-{n}", "human")
            record(added, store.annotator(name, kind), p, f"{i}-{n}")
        if judge is not None:
            record(added, store.annotator("judge", "judge"), judge, f"{i}-judge")

    def record(added: int, annotator: int, p: float, key: str) -> None:
        store.add_label(NewLabel(added, annotator, "tie" if p == 0.5 else "preference", p, [0, 1], key))

    comparison(1, [1.0, 1.0, 0.0], 0.9)  # agrees with the majority
    comparison(2, [0.0, 0.5], 0.2)  # the tie is no vote: agrees
    comparison(3, [0.0], 0.7)  # disagrees
    comparison(4, [1.0, 0.0], 0.7)  # no majority
    comparison(5, [0.5], 0.7)  # no majority
    comparison(6, [1.0], 0.5)  # the judge's tie
    comparison(7, [1.0], None)  # no judge
    comparison(8, [], 0.9)  # no people
    found = judges_against_people(read_table(store))
    assert found.agreement == pytest.approx(2 / 3)
    assert (found.compared, found.agreed, found.judge_ties, found.no_majority) == (3, 2, 1, 2)
    people = people_agreement(read_table(store))
    assert people.comparisons == 3  # 1, 2 and 4
    # units {0,0,1}, {1,tie}, {0,1}: n = 7 values (3, 3, 1); disagreement 4/2 + 2 + 2 = 6; 1 - 6*6/(49-19)
    assert people.alpha == pytest.approx(1 - 36 / 30)


def test_agreement_of_an_empty_store(sqlite_store):
    assert judges_against_people(read_table(sqlite_store)).agreement is None
    assert people_agreement(read_table(sqlite_store)).alpha is None
