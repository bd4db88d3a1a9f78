"""RewardBench, RewardBench 2 and RM-Bench: their rows are known, and their figures are theirs, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from reward.benchmarks import Question, Scored, benchmark_of, question, report, ties_score
from reward.errors import RewardError

RB1 = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "subset": "math-prm", "id": 1}
RB2 = {"prompt": "2 + 2?", "chosen": ["4"], "rejected": ["5", "3", "22"], "subset": "Math", "id": "7"}
RMB = {
    "prompt": "2 + 2?",
    "chosen": ["4", "It is 4", "**4**"],
    "rejected": ["5", "It is 5", "**5**"],
    "domain": "math",
}


def scored(subset: str, right: list[float], wrong: list[float], name: str = "") -> Scored:
    texts = [tuple("a" for _ in side) for side in (right, wrong)]
    return Scored(Question([], *texts, subset, name), right, wrong)


@pytest.mark.parametrize(("row", "name"), [(RB1, "RewardBench"), (RB2, "RewardBench 2"), (RMB, "RM-Bench")])
def test_rows_are_known_by_their_columns(row: dict[str, Any], name: str) -> None:
    assert benchmark_of(row) == name
    found = question(row, "here")
    assert found.prompt == [{"role": "user", "content": "2 + 2?"}]
    assert found.right[0] == "4"
    assert len(found.conversations) == len(found.right) + len(found.wrong)
    assert found.conversations[len(found.right)][-1] == {"role": "assistant", "content": "5"}


def test_preference_rows_are_no_benchmark() -> None:
    sides = {"prompt": [{"role": "user", "content": "x"}], "chosen": [{"role": "assistant", "content": "y"}]}
    assert benchmark_of(sides | {"rejected": sides["chosen"]}) is None
    assert benchmark_of({}) is None


@pytest.mark.parametrize("change", [{"rejected": []}, {"chosen": [1]}, {"prompt": None}])
def test_a_row_without_answers_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(RewardError, match="file, row 3: it needs prompt, chosen and rejected"):
        question(RB2 | change, "file, row 3")


def test_rewardbench_by_hand() -> None:
    found = report(
        "RewardBench",
        [
            scored("alpacaeval-easy", [1], [0]),
            scored("alpacaeval-easy", [0], [0]),  # a tie is half right
            scored("alpacaeval-hard", [0], [1]),
            scored("math-prm", [1], [0]),
            scored("hep-go", [1], [0]),
            scored("hep-go", [0], [1]),
            scored("hep-go", [0], [1]),
        ],
    )
    # chat: three questions; reasoning: math, as heavy as all code, is right, a third of the code is
    assert found["sections"] == pytest.approx({"Chat": 1.5 / 3, "Reasoning": (1 + 1 / 3) / 2})
    assert found["score"] == pytest.approx((0.5 + 2 / 3) / 2)
    assert found["subsets"]["hep-go"]["questions"] == 3
    assert found["subsets"]["hep-go"]["accuracy_low"] == 0.0


def test_rewardbench_2_by_hand() -> None:
    found = report(
        "RewardBench 2",
        [
            scored("Math", [3], [1, 2, 0]),
            scored("Math", [2], [2, 2, 0]),  # shares the lead with two wrong ones
            scored("Focus", [0], [1, 0, 0]),
            scored("Ties", [1], [0], "ref:1"),
            scored("Ties", [5, 4], [1, 0], "tied:1"),
        ],
    )
    # tied: right by 3, spread 1; ref: right by 1, not more than the spread
    ties = 0.3 + 0.3 + 0.2 + 0.0 + 0.01 * math.tanh(1 / 1 - 1)
    assert found["sections"] == pytest.approx({"Focus": 0.0, "Math": (1 + 1 / 3) / 2, "Ties": ties})
    assert found["score"] == pytest.approx((0 + 2 / 3 + ties) / 3)


def test_ties_without_spread_or_twin() -> None:
    assert ties_score(
        [scored("Ties", [2, 2], [1], "tied:1"), scored("Ties", [2], [1], "ref:1")]
    ) == pytest.approx(1.01)
    assert ties_score([scored("Ties", [2, 2], [1], "tied:1")]) == pytest.approx(0.3)


def test_rm_bench_by_hand() -> None:
    # likes style alone: concise 0, detailed 1, Markdown 2, on either side
    found = report("RM-Bench", [scored("chat", [0, 1, 2], [0, 1, 2])])
    assert found["sections"] == {"hard": 0.0, "normal": 0.5, "easy": 1.0}
    assert found["score"] == 0.5
    with pytest.raises(RewardError, match="it needs 3 right and 3 wrong answers, not 1 and 3"):
        report("RM-Bench", [scored("chat", [0], [0, 1, 2])])
