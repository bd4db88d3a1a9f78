"""The ledger: intent before sending, reply before reading, no answered call sent again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from alignment.demo.stand_in_judge import MODEL, StandInJudge
from labeling.errors import LabelingError
from labeling.judge import ledger
from labeling.judge.config import JudgeConfig
from labeling.judge.job import calls_for, run_judge
from labeling.judge.ledger import Call
from labeling.judge.rendering import load_template
from labeling.schema import JudgeCall
from labeling.views import NewCompletion

CALL = Call("http://here/v1", {"model": "m", "messages": [{"role": "user", "content": "A or B?"}]})


def states(store):
    with store.begin() as session:
        return list(
            session.execute(select(JudgeCall.attempt, JudgeCall.state).order_by(JudgeCall.id)).tuples()
        )


def test_life_of_a_call(store):
    key = CALL.key
    with store.begin() as session:
        assert ledger.answer(session, key) is None
        assert ledger.claim(session, CALL, key) == 1
    with store.begin() as session:
        assert ledger.claim(session, CALL, key) is None  # in flight, by another job
        ledger.record_failure(session, key, 1, "failed", "500: down")
        assert ledger.claim(session, CALL, key) == 2
        ledger.record_reply(session, key, 2, {"text": "A\x00 ü"})
    assert states(store) == [(1, "failed"), (2, "answered")]
    with store.begin() as session:
        assert ledger.answer(session, key) == {"text": "A\x00 ü"}
        assert session.scalars(select(JudgeCall.request)).first() == CALL.request


def test_intents_of_a_killed_job_become_uncertain(store):
    other = replace(CALL, body=CALL.body | {"model": "another"})
    with store.begin() as session:
        ledger.claim(session, CALL, CALL.key)
        ledger.claim(session, other, other.key)
    with store.begin() as session:
        assert ledger.mark_uncertain(session, "http://here/v1", "m") == 1
        assert ledger.claim(session, CALL, CALL.key) == 2
    assert states(store) == [(1, "uncertain"), (1, "intent"), (2, "intent")]


def test_the_database_holds_one_row_for_an_attempt(store):
    with store.begin() as session:
        ledger.claim(session, CALL, CALL.key)
    with pytest.raises(IntegrityError), store.begin() as session:
        session.add(JudgeCall(key=CALL.key, attempt=1, request={}))


def test_the_key_covers_all_that_shapes_the_answer(sqlite_store):
    sides = [NewCompletion([{"role": "assistant", "content": text}]) for text in "xy"]
    sqlite_store.add_comparison([{"role": "user", "content": "Write a letter."}], sides)
    [comparison] = sqlite_store.comparisons()
    changes = [
        {}, {"base_url": "http://there/v1"}, {"model": "n"}, {"temperature": 0.5}, {"temperature": None},
        {"max_tokens": 9}, {"verdict": "text"}, {"language": "zh"},
    ]  # fmt: skip
    keys = []
    for change in changes:
        judge = JudgeConfig(**{"model": "m", **change})
        keys += [c.key for c in calls_for(comparison, judge, load_template("pairwise", judge.language))]
    assert len(set(keys)) == 2 * len(changes)  # and the two orders are two calls
    assert replace(CALL, sample=1).key != CALL.key
    # what says how the job runs, and not what is asked, is no part of it
    hurried = JudgeConfig(model="m", concurrency=2, max_attempts=1, timeout_seconds=9, tie_band=0.3)
    assert [c.key for c in calls_for(comparison, hurried, load_template("pairwise", "en"))] == keys[:2]


def test_two_jobs_of_one_judge_do_not_ask_the_same_thing(sqlite_store):
    """The second one finds a call in flight that it did not start, and leaves it to the first."""
    sides = [NewCompletion([{"role": "assistant", "content": text}]) for text in "xy"]
    sqlite_store.add_comparison([{"role": "user", "content": "Write a letter."}], sides)
    [comparison] = sqlite_store.comparisons()

    def first_job_asks_meanwhile(_prompt, _answer):
        with sqlite_store.begin() as session:
            if ledger.answer(session, second.key) is None:
                ledger.claim(session, second, second.key)
        return 0.0

    with StandInJudge(first_job_asks_meanwhile) as server:
        judge = JudgeConfig(base_url=server.base_url, model=MODEL)
        _, second = calls_for(comparison, judge, load_template("pairwise", "en"))
        with pytest.raises(LabelingError, match="another job of judge:stand-in-judge is at work"):
            run_judge(sqlite_store, judge)
        assert sum(server.log.attempts.values()) == 1
