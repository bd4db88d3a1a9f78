"""Agreement figures against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling.agreement import (
    cohen_kappa,
    human_agreement,
    judge_human_agreement,
    krippendorff_alpha,
    raw_agreement,
)
from labeling.errors import LabelingError
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


def test_krippendorff_alpha_with_values_missing():
    # Four coders, twelve items with gaps: Krippendorff (2011), section C; the last item has one value.
    units = [
        [1, 1, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4], [4, 4, 4, 4],
        [1, 1, 2, 1], [2, 2, 2, 2], [5, 5, 5], [1, 1], [3],
    ]  # fmt: skip
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


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
    found = judge_human_agreement(store)
    assert found.agreement == pytest.approx(2 / 3)
    assert (found.compared, found.agreed, found.judge_ties, found.no_majority) == (3, 2, 1, 2)
    people = human_agreement(store)
    assert people.comparisons == 3  # 1, 2 and 4
    # units {0,0,1}, {1,tie}, {0,1}: n = 7 values (3, 3, 1); disagreement 4/2 + 2 + 2 = 6; 1 - 6*6/(49-19)
    assert people.alpha == pytest.approx(1 - 36 / 30)


def test_agreement_of_an_empty_store(sqlite_store):
    assert judge_human_agreement(sqlite_store).agreement is None
    assert human_agreement(sqlite_store).alpha is None
