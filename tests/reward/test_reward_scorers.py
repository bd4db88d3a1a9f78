"""Scorers that are no trained model: rules, services over HTTP, ensembles; and what a config's `reward` stands for."""

from __future__ import annotations

import pytest

from reward.ensemble import Ensemble, opinions
from reward.errors import RewardError
from reward.remote import RemoteScorer
from reward.rule import RuleScorer
from reward.scorer import checked
from reward.specs import is_learned, open_scorer, with_folders
from tests.reward.scoring_service import Service

CONVERSATIONS = [
    [{"role": "user", "content": "where?"}, {"role": "assistant", "content": answer}]
    for answer in ("Here.", "Over there…", "")
]
RULES = "tests.reward.scoring_rules"


def test_a_rule_is_a_function_of_the_conversations():
    assert RuleScorer(f"{RULES}:length").score(CONVERSATIONS) == [5.0, 11.0, 0.0]
    assert RuleScorer(f"{RULES}:length").score([]) == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("nowhere.at_all:f", "cannot be imported (ModuleNotFoundError: No module named 'nowhere'): install"),
        (f"{RULES}:nothing", "cannot be imported (AttributeError"),
        (f"{RULES}:NOT_A_FUNCTION", "is a int, not a function"),
        (RULES, "write it as python:package.module:function"),
        (f"{RULES}:", "write it as python:package.module:function"),
    ],
)
def test_a_rule_that_is_not_there_is_said_at_once(place, line):
    with pytest.raises(RewardError) as error:
        RuleScorer(place)
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("too_few", "gave 1 scores for 3 conversations"),
        ("words", "gave 'good' for a score, which is not a number"),
        ("not_a_list", "gave a int, not a list of numbers"),
        ("not_finite", "gave 2 of 3 scores that are not finite (the first for conversation 2)"),
        ("raises", "raised KeyError: 'no such\\nthing'"),
    ],
)
def test_a_rule_that_breaks_its_contract_is_one_line(name, line):
    with pytest.raises(RewardError) as error:
        RuleScorer(f"{RULES}:{name}").score(CONVERSATIONS)
    assert line in str(error.value)
    assert str(error.value).startswith(f"reward rule {RULES}:{name} ")
    assert "\n" not in str(error.value)


def test_numbers_of_any_library_are_numbers():
    import numpy
    import torch

    for scores in (numpy.array([1, 2]), torch.tensor([1.0, 2.0]), (True, 2), (float(i) for i in (1, 2))):
        assert checked(scores, 2, "it") == [1.0, 2.0]


def test_an_ensemble_is_the_mean_of_its_members():
    class Says:
        def __init__(self, *scores):
            self.scores = list(scores)

        def score(self, conversations):
            return self.scores

    ensemble = Ensemble([Says(1.0, 0.0), Says(2.0, 0.0), Says(6.0, 3.0)])
    assert ensemble.score(CONVERSATIONS[:2]) == [3.0, 1.0]
    assert opinions(ensemble, CONVERSATIONS[:2]) == [[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]]
    assert opinions(Says(4.0, 5.0), CONVERSATIONS[:2]) == [[4.0], [5.0]]


def test_a_service_scores_by_the_documented_contract(monkeypatch):
    monkeypatch.delenv("ALIGN_REWARD_KEY", raising=False)
    with Service() as service:
        assert RemoteScorer(service.url, batch=2).score(CONVERSATIONS) == [5.0, 11.0, 0.0]
        assert [conversations for _, conversations in service.requests] == [
            CONVERSATIONS[:2],
            CONVERSATIONS[2:],
        ]
        assert "Authorization" not in service.requests[0][0]
        monkeypatch.setenv("ALIGN_REWARD_KEY", "s3cret")
        RemoteScorer(service.url).score(CONVERSATIONS[:1])
        assert service.requests[-1][0]["Authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("trouble", [503, 429, "drop", "hang"])
def test_trouble_that_passes_is_tried_again(trouble):
    with Service(trouble, trouble) as service:
        scorer = RemoteScorer(service.url, wait=0.01, timeout=0.2)
        assert scorer.score(CONVERSATIONS) == [5.0, 11.0, 0.0]
        assert len(service.requests) == 3


@pytest.mark.parametrize(
    ("trouble", "asked", "line"),
    [
        (503, 3, "HTTP 503 Service Unavailable"),
        ("drop", 3, "no answer"),
        ("hang", 3, "no answer (timed out): is it running, and the address right?"),
        (401, 1, "HTTP 401 Unauthorized; is ALIGN_REWARD_KEY right?"),
        (404, 1, "HTTP 404 Not Found; is the path right?"),
        (302, 1, "HTTP 302 Found"),
        ("<html>", 1, "replied b'<html>', not {\"scores\": [...]}"),
        ('{"score": 1}', 1, "not {\"scores\": [...]}"),
        ("[1, 2, 3]", 1, "not {\"scores\": [...]}"),
        ('{"scores": [1, 2]}', 1, "gave 2 scores for 3 conversations"),
        ('{"scores": [1, 2, null]}', 1, "gave None for a score, which is not a number"),
        ('{"scores": [1, 2, NaN]}', 1, "gave 1 of 3 scores that are not finite"),
    ],
)  # fmt: skip
def test_trouble_that_stays_is_one_line_after_bounded_attempts(trouble, asked, line):
    with Service(*[trouble] * 10) as service:
        scorer = RemoteScorer(service.url, attempts=3, wait=0.01, timeout=0.2)
        with pytest.raises(RewardError) as error:
            scorer.score(CONVERSATIONS)
        assert line in str(error.value)
        assert service.url in str(error.value)
        assert "\n" not in str(error.value)
        assert len(service.requests) == asked


def test_nobody_there_is_one_line():
    with Service() as service:
        url = service.url
    with pytest.raises(RewardError, match=r"Connection refused.*is it running"):
        RemoteScorer(url, attempts=2, wait=0.01).score(CONVERSATIONS)


def test_addresses_that_would_not_work_or_would_leak_are_refused():
    with pytest.raises(RewardError, match="http://host:port/path"):
        RemoteScorer("http://")
    with pytest.raises(RewardError, match="ALIGN_REWARD_KEY") as error:
        RemoteScorer("http://me:s3cret@host/")
    assert "s3cret" not in str(error.value)


def test_what_a_spec_stands_for():
    assert isinstance(open_scorer(f"python:{RULES}:length"), RuleScorer)
    assert isinstance(open_scorer("https://host/score"), RemoteScorer)
    both = open_scorer([f"python:{RULES}:length", "http://host/score"])
    assert [type(member) for member in both.members] == [RuleScorer, RemoteScorer]
    assert is_learned("runs/reward")
    assert not any(map(is_learned, (["a", "b"], "python:a:b", "http://a", "https://a")))
    assert with_folders(["a", "python:a:b"], str.upper) == ["A", "python:a:b"]
