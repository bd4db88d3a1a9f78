"""Marks for single answers: in their order, through faults, within the budget, and none paid for twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignment.demo.stand_in_judge import MODEL, Faults, Manner, StandInJudge
from labeling.errors import LabelingError
from labeling.judge.config import JudgeConfig, Member, Price
from labeling.judge.rating import rate_answers
from labeling.store import Store

PROMPT = [{"role": "user", "content": "Invite the guest."}]
ANSWERS = [(PROMPT, f"come {'please ' * (i % 2)}{i}") for i in range(40)]
QUIET = Manner(noise=0, garbage=0)


def polite(_: str, answer: str) -> float:  # marks of 8 and 4
    return 1.0 if "please" in answer else -1.0


def test_every_answer_gets_its_own_mark_and_is_paid_once(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "ledger.db"))
    faults = Faults(rate_limited=0.1, server_error=0.1, retry_after=0.01)
    steps: list[int] = []
    with StandInJudge(polite, manner=QUIET, faults=faults) as server:
        config = JudgeConfig(model=MODEL, base_url=server.base_url, concurrency=8)
        found = rate_answers(store, config, ANSWERS, steps.append)
        assert sum(server.log.faults.values()) > 0
        assert rate_answers(store, config, [*ANSWERS, *ANSWERS]) == found + found
        assert sum(server.log.answered.values()) == len(ANSWERS)
    assert [one.scores for one in found] == [{"overall": 8.0 if i % 2 else 4.0} for i in range(40)]
    assert sum(steps) == 40


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    manner, faults = Manner(noise=0, garbage=0.3), Faults(refused=0.3)
    with StandInJudge(polite, manner=manner, faults=faults) as server:
        config = JudgeConfig(model=MODEL, base_url=server.base_url)
        found = rate_answers(Store.open(str(tmp_path / "ledger.db")), config, ANSWERS)
    assert {one.outcome for one in found} == {"verdict", "unparsed", "refused"}
    assert all((one.scores is None) == (one.outcome != "verdict") for one in found)


def test_the_budget_holds_and_what_was_bought_is_kept(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "ledger.db"))
    with StandInJudge(polite, manner=QUIET) as server:
        config = JudgeConfig(
            model=MODEL, base_url=server.base_url, price=Price(input=1, output=1), budget=0.005, concurrency=2
        )
        with pytest.raises(LabelingError, match="does not reach for all 40"):
            rate_answers(store, config, ANSWERS)
        bought = sum(server.log.answered.values())
        assert 0 < bought < 40
        assert len(rate_answers(store, config.model_copy(update={"budget": None}), ANSWERS)) == 40
        assert sum(server.log.answered.values()) == 40


def test_a_judge_that_cannot_be_asked(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "ledger.db"))
    with pytest.raises(LabelingError, match="take `panel` out"):
        rate_answers(store, JudgeConfig(model="a", panel=[Member(model="b")]), ANSWERS)
    with pytest.raises(LabelingError, match="cannot reach the judge"):
        rate_answers(store, JudgeConfig(model="a", base_url="http://127.0.0.1:9/v1"), ANSWERS)
    assert rate_answers(store, JudgeConfig(model="a"), []) == []
