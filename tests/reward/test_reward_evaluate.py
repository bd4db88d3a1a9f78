"""Accuracy, calibration and intervals against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.evaluate import (
    accuracy,
    agreement,
    bootstrap_interval,
    brier,
    calibration_error,
    figures_by,
    pair_figures,
)


def test_equal_scores_are_half_right() -> None:
    assert agreement([2, 1, 3], [1, 2, 3]).tolist() == [1.0, 0.0, 0.5]


def test_ties_are_not_part_of_the_accuracy() -> None:
    assert accuracy([2, 0, 5], [1, 1, 0], [1.0, 0.8, 0.5]) == pytest.approx(0.5)
    assert accuracy([2], [1], [0.5]) is None


def test_brier_by_hand() -> None:
    gap = math.log(3)  # q = 0.75
    assert brier([gap], [0], [1.0]) == pytest.approx(0.0625)
    assert brier([gap], [0], [0.8]) == pytest.approx(0.8 * 0.0625 + 0.2 * 0.5625)


def test_calibration_error_by_hand() -> None:
    gap = math.log(3)
    # four pairs favoured with confidence 0.75, three of them rightly: calibrated
    assert calibration_error([gap] * 3 + [0], [0] * 3 + [gap], [1.0] * 4) == pytest.approx(0.0, abs=1e-12)
    # all four rightly: too modest by 0.25
    assert calibration_error([gap] * 4, [0] * 4, [1.0] * 4) == pytest.approx(0.25)
    # soft labels of 0.75 are met exactly
    assert calibration_error([gap], [0], [0.75]) == pytest.approx(0.0, abs=1e-12)


@given(
    st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(0.5, 1)), min_size=1, max_size=30)
)
def test_figures_stay_in_range_and_do_not_mind_a_shift(rows: list[tuple[float, float, float]]) -> None:
    chosen, rejected, p = zip(*rows, strict=True)
    figures = pair_figures(chosen, rejected, p, range(len(rows)))
    assert figures["pairs"] + figures["ties"] == len(rows)  # type: ignore[operator]
    assert 0 <= figures["ece"] <= 1  # type: ignore[operator]
    assert 0 <= figures["brier"] <= 1  # type: ignore[operator]
    if figures["accuracy"] is not None:
        assert 0 <= figures["accuracy_low"] <= figures["accuracy_high"] <= 1  # type: ignore[operator]


def test_the_interval_knows_that_pairs_of_one_prompt_go_together() -> None:
    values = [1.0] * 50 + [0.0] * 50
    low, high = bootstrap_interval(values, range(100))
    assert 0.38 < low < 0.45 < 0.55 < high < 0.62  # normal theory: 0.5 +- 0.098
    grouped_low, grouped_high = bootstrap_interval(values, [i // 25 for i in range(100)])
    assert (grouped_low, grouped_high) == (0.0, 1.0)  # four prompts only


def test_figures_by_source() -> None:
    by = figures_by(["human", "judge", "human"], [2, 0, 2], [1, 1, 1], [1, 1, 1], ["a", "b", "c"])
    assert by["human"]["accuracy"] == 1.0
    assert by["judge"]["accuracy"] == 0.0
    assert by["human"]["pairs"] == 2
