"""The simulated judge and the figures of the benchmarks on reward models, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from benchmarks.reward_noise import (
    FOLDS,
    Found,
    answer,
    demo_pairs,
    figures,
    hardened,
    held_out,
    judged,
    pair,
    relabelled,
)
from benchmarks.reward_vs_trl import figures as throughput


def rows(count: int) -> list[dict[str, Any]]:
    """The chosen side is the longer one in every other row."""
    texts = ("one two three four", "one")
    return [
        pair([{"role": "user", "content": f"prompt {i}"}], answer(texts[i % 2]), answer(texts[1 - i % 2]))
        for i in range(count)
    ]


def test_a_judge_who_is_wrong_swaps_the_sides() -> None:
    (row,) = rows(1)
    right = judged(row, math.log(3))
    assert (right["chosen"], right["p_chosen"]) == (row["chosen"], pytest.approx(0.75))
    wrong = judged(row, -math.log(3))
    assert (wrong["chosen"], wrong["rejected"]) == (row["rejected"], row["chosen"])
    assert wrong["p_chosen"] == pytest.approx(0.75)
    assert (wrong["source"], wrong["annotator"]) == ("judge", "judge")
    (hard,) = hardened([wrong])
    assert (hard["chosen"], hard["p_chosen"]) == (wrong["chosen"], 1.0)


def test_a_judge_relabels_its_share() -> None:
    for judge in ("verbose", "honest"):
        found = relabelled(rows(2000), judge, 3)
        assert 0.26 < sum(row["source"] == "judge" for row in found) / 2000 < 0.34


def test_the_honest_judge_is_right_as_often_as_it_says() -> None:
    given = rows(8000)
    found = relabelled(given, "honest", 3)
    by_judge = [i for i, row in enumerate(found) if row["source"] == "judge"]
    right = sum(found[i]["chosen"] == given[i]["chosen"] for i in by_judge) / len(by_judge)
    said = sum(found[i]["p_chosen"] for i in by_judge) / len(by_judge)
    assert said == pytest.approx(0.6, abs=0.01)
    assert right == pytest.approx(said, abs=0.03)
    assert all(0.5 <= found[i]["p_chosen"] <= 0.7 for i in by_judge)


def test_the_verbose_judge_likes_length() -> None:
    given = rows(2000)
    chosen = [row["chosen"] for row in relabelled(given, "verbose", 3) if row["source"] == "judge"]
    longer = [side == given[0]["chosen"] for side in chosen]
    assert sum(longer) / len(longer) > 0.75


def test_every_prompt_is_held_out_once_in_all_folds() -> None:
    given = rows(60)
    split = [held_out(given, seed) for seed in range(FOLDS)]
    assert sorted(row["group"] for _, test in split for row in test) == sorted(row["group"] for row in given)
    for train, test in split:
        assert len(train) + len(test) == 60
        assert not {row["group"] for row in train} & {row["group"] for row in test}
    assert held_out(given, FOLDS) == split[0]


def test_the_demos_pairs_are_no_ties_and_the_better_side_comes_first() -> None:
    found = demo_pairs(40)
    assert 20 < len(found) <= 40
    assert all(row["chosen"] != row["rejected"] for row in found)


def test_figures_by_hand() -> None:
    gaps = {
        "hard_clean": [1, 1, 1, 1],
        "hard_noisy": [1, -1, 0, -1],
        "soft_alone": [1, 1, 1, 1],
        "soft": [1, 1, 1, -1],
    }
    halves = [
        Found({way: np.array(gap[part], float) for way, gap in gaps.items()}, groups)
        for part, groups in ((slice(0, 2), ["a", "b"]), (slice(2, 4), ["c", "d"]))
    ]
    found = figures(halves)
    assert found["hard_clean_accuracy"] == 1.0
    assert found["hard_noisy_accuracy"] == pytest.approx(1.5 / 4)
    assert found["difference"] == pytest.approx(1.5 / 4)
    assert 0 <= found["difference_low"] < found["difference"] < found["difference_high"] <= 1  # type: ignore[operator]
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    assert found["hard_noisy_loss"] == pytest.approx((right + 2 * wrong + math.log(2)) / 4)
    assert found["loss_difference"] == pytest.approx(
        (right + 2 * wrong + math.log(2) - 3 * right - wrong) / 4
    )
    sigmoid = 1 / (1 + math.exp(-1))
    assert found["hard_clean_ece"] == pytest.approx(1 - sigmoid)


def test_the_fastest_peer_counts() -> None:
    def side(cpu: float, peak: float) -> list[dict[str, float]]:
        return [{"cpu": cpu, "peak_mb": peak, "accuracy": 0.5}] * 3

    found = throughput(
        {"trl": side(4, 100), "trl_plain": side(3, 300), "trl_best": side(2, 200), "ours": side(1, 150)}
    )
    assert found["speed_ratio"] == 2.0
    assert found["memory_ratio"] == 0.75  # ours over the fastest
    assert found["trl_memory_ratio"] == 1.5
    assert found["accuracy_difference"] == 0.0
