"""The simulated judge and the figures of the benchmarks on reward models, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from benchmarks.reward_noise import Found, answer, demo_pairs, figures, folds, judged, pair, relabelled
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
    right = judged(row, math.log(3), hard=False)
    assert (right["chosen"], right["p_chosen"]) == (row["chosen"], pytest.approx(0.75))
    wrong = judged(row, -math.log(3), hard=False)
    assert (wrong["chosen"], wrong["rejected"]) == (row["rejected"], row["chosen"])
    assert wrong["p_chosen"] == pytest.approx(0.75)
    assert judged(row, -0.1, hard=True)["p_chosen"] == 1.0
    assert (wrong["source"], wrong["annotator"]) == ("judge", "judge")


def test_the_judge_relabels_its_share_alike_in_both_ways_and_likes_length() -> None:
    given = rows(2000)
    hard, soft = (relabelled(given, 3, hard=way) for way in (True, False))
    assert [row["source"] for row in hard] == [row["source"] for row in soft]
    assert [row["chosen"] for row in hard] == [row["chosen"] for row in soft]
    by_judge = [i for i, row in enumerate(hard) if row["source"] == "judge"]
    assert 0.26 < len(by_judge) / 2000 < 0.34
    longer = [hard[i]["chosen"] == given[0]["chosen"] for i in by_judge]
    assert sum(longer) / len(longer) > 0.75


def test_every_prompt_is_held_out_once() -> None:
    given = rows(60)
    split = list(folds(given))
    assert sorted(row["group"] for _, test in split for row in test) == sorted(row["group"] for row in given)
    for train, test in split:
        assert len(train) + len(test) == 60
        assert not {row["group"] for row in train} & {row["group"] for row in test}


def test_the_demos_pairs_are_no_ties_and_the_better_side_comes_first() -> None:
    found = demo_pairs(40)
    assert 20 < len(found) <= 40
    assert all(row["chosen"] != row["rejected"] for row in found)


def test_figures_by_hand() -> None:
    gaps = {"hard_clean": [1, 1, 1, 1], "hard_noisy": [1, -1, 0, -1], "soft": [1, 1, 1, -1]}
    halves = [
        Found({way: [np.array(gap[part], float)] for way, gap in gaps.items()}, groups)
        for part, groups in ((slice(0, 2), ["a", "b"]), (slice(2, 4), ["c", "d"]))
    ]
    found = figures(Found.together(halves))
    assert found["hard_clean_accuracy"] == 1.0
    assert found["hard_noisy_accuracy"] == pytest.approx(1.5 / 4)
    assert found["difference"] == pytest.approx(1.5 / 4)
    assert 0 <= found["difference_low"] < found["difference"] < found["difference_high"] <= 1  # type: ignore[operator]
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
