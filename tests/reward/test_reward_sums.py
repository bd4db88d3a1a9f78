"""Rules, and rewards that are sums: a learned score with rules beside it, behind the one interface."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from reward.ensemble import opinions
from reward.errors import RewardError
from reward.specs import Sum, is_learned, open_scorer, with_folders

RULES = "tests.reward.scoring_rules"
ANSWERS = ("Here, I think.", '{"where": ["here"]}', "")
CONVERSATIONS = [
    [{"role": "user", "content": "where?"}, {"role": "assistant", "content": answer}] for answer in ANSWERS
]


@pytest.mark.parametrize(
    ("spec", "scores"),
    [
        ("length:words", [3, 2, 0]),
        ("length:characters", [14, 19, 0]),
        ("format:json", [0, 1, 0]),
        ("regex:^Here.*think", [1, 0, 0]),
        (r"regex:\bhere\b", [0, 1, 0]),
    ],
)
def test_rules_by_hand(spec: str, scores: list[float]) -> None:
    assert open_scorer(spec).score(CONVERSATIONS) == scores
    assert not is_learned(spec)


def test_text_that_is_deep_is_no_error() -> None:
    deep = [[{"role": "assistant", "content": "[" * 200_000}]]
    assert open_scorer("format:json").score(deep) == [0.0]


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("length:tokens", "write one of length:words, length:characters"),
        ("format:yaml", "write one of format:json"),
        ("regex:(", "is no regular expression"),
    ],
)
def test_a_rule_that_is_not_there_is_one_line(spec: str, line: str) -> None:
    with pytest.raises(RewardError, match=line):
        open_scorer(spec)


def total(*parts: object) -> Sum:
    return Sum.model_validate({"sum": parts})


def test_a_sum_by_hand() -> None:
    spec = total({"reward": "length:words", "weight": -0.5}, {"reward": "format:json", "weight": 4})
    assert open_scorer(spec).score(CONVERSATIONS) == [-1.5, 3.0, 0.0]
    assert opinions(open_scorer(spec), CONVERSATIONS) == [[-1.5], [3.0], [0.0]]


def test_a_sum_keeps_its_ensembles_disagreement_and_caution() -> None:
    both = {"reward": [f"python:{RULES}:length", f"python:{RULES}:brevity"], "weight": 2}  # 14 and -14
    plain = open_scorer(total(both, {"reward": "length:words"}))
    assert opinions(plain, CONVERSATIONS[:1]) == [[31, -25]]
    assert plain.score(CONVERSATIONS[:1]) == [3]
    careful = open_scorer(total(both | {"caution": 0.5}, {"reward": "length:words"}))
    assert opinions(careful, CONVERSATIONS[:1]) == [[17, -39]]  # each lower by 2 x 0.5 x 14
    three = {"reward": ["length:words", "length:words", "length:words"]}
    with pytest.raises(RewardError, match="have 2 and 3 members"):
        open_scorer(total(both, three)).score(CONVERSATIONS)


def test_folders_in_a_sum_are_found() -> None:
    spec = total({"reward": "a"}, {"reward": ["b", "length:words"], "weight": 2})
    found = with_folders(spec, str.upper)
    assert isinstance(found, Sum)
    assert [part.reward for part in found.sum] == ["A", ["B", "length:words"]]
    assert not is_learned(spec)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sum": []},
        {"sum": [{"reward": "a", "wieght": 1}]},
        {"sum": [{"reward": "a", "weight": float("nan")}]},
    ],
)
def test_a_sum_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Sum.model_validate(wrong)
