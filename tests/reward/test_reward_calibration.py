"""Calibration and liking for length, against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.calibration import COLDEST, HOTTEST, fit_temperature, reliability_bins, win_chance
from reward.length import correlation, length_figures

LOG3 = math.log(3)


def test_win_chance_by_hand() -> None:
    assert win_chance([LOG3, 0], [0, LOG3]).tolist() == pytest.approx([0.75, 0.25])
    assert win_chance([2 * LOG3], [0], temperature=2.0).tolist() == pytest.approx([0.75])
    assert win_chance([1e6], [0]).tolist() == [1.0]


def test_the_reliability_diagram_by_hand() -> None:
    # three pairs at 3 to 1, of which two are right, and one at even odds
    bins = reliability_bins([LOG3, LOG3, 0, 1], [0, 0, LOG3, 1], [1.0, 1.0, 1.0, 1.0])
    assert [(round(b.confidence, 6), round(b.outcome, 6), b.pairs) for b in bins] == [
        (0.5, 1.0, 1),
        (0.75, round(2 / 3, 6), 3),
    ]


def test_the_temperature_that_calibrates_is_found() -> None:
    # all gaps are log 9, which says 0.9; three of four are right, which log 3 would say
    assert fit_temperature([2 * LOG3] * 4, [0] * 4, [1, 1, 1, 0]) == pytest.approx(2.0, rel=1e-6)
    assert fit_temperature([LOG3], [0], [0.75]) == pytest.approx(1.0, rel=1e-6)


def test_the_temperature_has_bounds() -> None:
    assert fit_temperature([1, 2], [0, 0], [1, 1]) == COLDEST  # always right: the colder the better
    assert fit_temperature([1, 2], [0, 0], [0, 0]) == pytest.approx(HOTTEST)  # always wrong


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 1)), min_size=1, max_size=20))
def test_no_other_temperature_is_better(rows: list[tuple[float, float]]) -> None:
    gaps, p = (np.array(column) for column in zip(*rows, strict=True))

    def loss(temperature: float) -> float:
        return float(
            (p * np.logaddexp(0, -gaps / temperature) + (1 - p) * np.logaddexp(0, gaps / temperature)).mean()
        )

    best = loss(fit_temperature(gaps, 0 * gaps, p))
    assert all(best <= loss(t) + 1e-6 for t in (0.05, 0.3, 1.0, 3.0, 20.0))


def test_length_figures_by_hand() -> None:
    # gaps 2, -1, 0, 5 on length differences 1, 1, -2, 0
    found = length_figures([2, 0, 1, 5], [0, 1, 1, 0], [1.0, 0.8, 1.0, 1.0], [1, 1, -2, 0])
    assert found["length_correlation"] == pytest.approx(1 / math.sqrt(30 * 6))
    assert found["longer_scored_higher"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["longer_preferred"] == pytest.approx((1.0 + 0.8 + 0.0) / 3)
    assert set(length_figures([1], [0], [1.0], [0]).values()) == {None}
    assert correlation([0, 0], [1, 2]) is None


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(-9, 9)), min_size=1, max_size=20), st.data())
def test_swapping_the_sides_of_a_pair_changes_no_correlation(
    rows: list[tuple[float, int]], data: st.DataObject
) -> None:
    signs = [data.draw(st.sampled_from([1, -1])) for _ in rows]
    gaps, extra = zip(*rows, strict=True)
    there = correlation(gaps, extra)
    back = correlation(np.multiply(gaps, signs), np.multiply(extra, signs))
    assert there == pytest.approx(back)
    assert there is None or -1 - 1e-9 <= there <= 1 + 1e-9
