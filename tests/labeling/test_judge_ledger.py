"""The ledger: intent before sending, reply before reading, no answered call sent again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from alignment.demo.stand_in_judge import MODEL, StandInJudge
from labeling.errors import LabelingError
from labeling.judge.calls import ledger
from labeling.judge.calls.ledger import Call, End, Intent
from labeling.judge.config import JudgeConfig
from labeling.judge.job import run_judge
from labeling.judge.judge import Judge
from labeling.schema import JudgeCall
from labeling.views import NewCompletion

CALL = Call("http://here/v1", {"model": "m", "messages": [{"role": "user", "content": "A or B?"}]})


def states(store):
    with store.begin() as session:
        return list(
            session.execute(select(JudgeCall.attempt, JudgeCall.state).order_by(JudgeCall.id)).tuples()
        )


def claim(session, call=CALL, most=None):
    [attempt] = ledger.claim(session, [Intent(call, most)])
    return attempt


def test_life_of_a_call(store):
    key = CALL.key
    with store.begin() as session:
        assert ledger.answers(session, [key]) == [None]
        assert claim(session) == 1
    with store.begin() as session:
        assert claim(session) is None  # in flight, by another job
        ledger.close(session, [End(key, 1, "failed", error="500: down", cost=0)])
        assert claim(session) == 2
        ledger.close(session, [End(key, 2, "answered", {"text": "A\x00 ü"}, cost=7)])
    assert states(store) == [(1, "failed"), (2, "answered")]
    with store.begin() as session:
        assert ledger.answers(session, ["other", key]) == [None, {"text": "A\x00 ü"}]
        assert ledger.answered(session, ["other", key]) == {key}
        assert session.scalars(select(JudgeCall.request)).first() == CALL.request
    assert ledger.spent(store, "http://here/v1", "m") == 7
    assert ledger.spent(store, "http://there/v1", "m") == 0


def test_many_calls_at_once(store):
    other = replace(CALL, sample=1)
    with store.begin() as session:
        # the second mention of a call finds the first in flight
        assert ledger.claim(session, [Intent(CALL), Intent(other), Intent(CALL)]) == [1, 1, None]
        ledger.close(
            session, [End(CALL.key, 1, "uncertain", cost=5), End(other.key, 1, "answered", {}, cost=2)]
        )
        assert ledger.claim(session, [Intent(CALL)]) == [2]
    assert states(store) == [(1, "uncertain"), (1, "answered"), (2, "intent")]


def test_intents_of_a_killed_job_become_uncertain_and_keep_what_they_may_have_cost(store):
    other = replace(CALL, body=CALL.body | {"model": "another"})
    with store.begin() as session:
        claim(session, CALL, most=11)
        claim(session, other, most=5)
    with store.begin() as session:
        assert ledger.mark_uncertain(session, "http://here/v1", "m") == 1
        assert claim(session, most=3) == 2
    assert states(store) == [(1, "uncertain"), (1, "intent"), (2, "intent")]
    assert ledger.spent(store, "http://here/v1", "m") == 14


def test_calls_of_older_tables_are_told_whose_they_are(store_url):
    from alembic.command import upgrade

    from labeling.database import make_engine, parse
    from labeling.migrations import config
    from labeling.store import Store

    engine = make_engine(parse(store_url))
    with engine.execution_options(writes=True).begin() as connection:
        upgrade(config(connection), "0003")
        connection.execute(
            text(
                "INSERT INTO judge_call (key, attempt, state, request, error, created_at) VALUES "
                "('k', 1, 'answered', :request, '', '2026-01-01')"
            ),
            {"request": json.dumps(CALL.request)},
        )
    engine.dispose()
    store = Store.open(store_url)
    with store.begin() as session:
        [call] = session.scalars(select(JudgeCall)).all()
        assert (call.base_url, call.model, call.cost, call.batch_id) == ("http://here/v1", "m", None, None)
    store.engine.dispose()


def test_the_database_holds_one_row_for_an_attempt(store):
    with store.begin() as session:
        claim(session)
    with pytest.raises(IntegrityError), store.begin() as session:
        session.add(JudgeCall(key=CALL.key, attempt=1, request={}))


def keys_of(comparison, **config):
    return [question.call.key for question in Judge(JudgeConfig(**config)).questions(comparison)]


def test_the_key_covers_all_that_shapes_the_answer(sqlite_store):
    sides = [NewCompletion([{"role": "assistant", "content": text}]) for text in "xy"]
    sqlite_store.add_comparison([{"role": "user", "content": "Write a letter."}], sides)
    [comparison] = sqlite_store.comparisons()
    changes = [
        {}, {"base_url": "http://there/v1"}, {"model": "n"}, {"temperature": 0.5},
        {"parameters": {"temperature": None}},
        {"max_tokens": 9}, {"verdict": "text"}, {"verdict": "json"}, {"language": "zh"}, {"rubric": "Be brief."},
        {"parameters": {"top_p": 0.9}}, {"reasoning": True}, {"constitution": ["Do no harm."]},
    ]  # fmt: skip
    keys = []
    for change in changes:
        keys += keys_of(comparison, **{"model": "m", **change})
    assert len(set(keys)) == 2 * len(changes)  # and the two orders are two calls
    assert replace(CALL, sample=1).key != CALL.key
    # what says how the job runs, and not what is asked, is no part of it
    assert (
        keys_of(comparison, model="m", concurrency=2, max_attempts=1, timeout_seconds=9, tie_band=0.3)
        == keys[:2]
    )
    assert len(set(keys_of(comparison, model="m", samples=3))) == 6


def test_two_jobs_of_one_judge_do_not_ask_the_same_thing(sqlite_store):
    """The second one finds a call in flight that it did not start, and leaves it to the first."""
    sides = [NewCompletion([{"role": "assistant", "content": text}]) for text in "xy"]
    sqlite_store.add_comparison([{"role": "user", "content": "Write a letter."}], sides)
    [comparison] = sqlite_store.comparisons()

    def first_job_asks_meanwhile(_prompt, _answer):
        with sqlite_store.begin() as session:
            if ledger.answers(session, [second.key]) == [None]:
                claim(session, second)
        return 0.0

    with StandInJudge(first_job_asks_meanwhile) as server:
        judge = JudgeConfig(base_url=server.base_url, model=MODEL)
        second = Judge(judge).questions(comparison)[1].call
        with pytest.raises(LabelingError, match="another job of judge:stand-in-judge is at work"):
            run_judge(sqlite_store, judge)
        assert sum(server.log.attempts.values()) == 1
