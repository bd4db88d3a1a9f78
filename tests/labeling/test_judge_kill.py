"""A job that is killed or interrupted, and goes on: the server's own log says what was asked twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from sqlalchemy import select

from alignment.demo.stand_in_judge import MODEL, Faults, Manner, StandInJudge
from labeling.errors import LabelingError
from labeling.hashing import content_hash
from labeling.judge.calls.alone import alone
from labeling.judge.config import JudgeConfig
from labeling.judge.job import run_judge
from labeling.schema import JudgeCall, Judgement
from labeling.views import NewComparison, NewCompletion

JOB = """
import sys
from labeling.judge.config import JudgeConfig
from labeling.judge.job import run_judge
from labeling.store import Store
store = Store.open(sys.argv[1])
run_judge(store, JudgeConfig(base_url=sys.argv[2], model=sys.argv[3], concurrency=8),
          progress=lambda n, **_: print(n, flush=True))
"""
COMPARISONS, KILLS = 80, 3


def start(store_url, server):
    command = [sys.executable, "-c", JOB, store_url, server.base_url, MODEL]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fill(store, n):
    sides = [NewCompletion([{"role": "assistant", "content": text}]) for text in ("please come", "come")]
    store.add_comparisons(
        NewComparison([{"role": "user", "content": f"Invite {i}."}], sides) for i in range(n)
    )


def read(store, table):
    with store.begin() as session:
        found = session.scalars(select(table)).all()
        session.expunge_all()
    return found


def body_hash(call):
    """How the server names the request of a ledger row."""
    return content_hash({k: v for k, v in call.request.items() if k not in ("base_url", "sample")})


@pytest.mark.timeout(180)
def test_a_second_job_is_refused_while_the_first_is_at_work(store, store_url):
    fill(store, 40)
    with StandInJudge(lambda _, text: float("please" in text), latency=0.1) as server:
        config = JudgeConfig(base_url=server.base_url, model=MODEL)
        job = start(store_url, server)
        assert job.stdout.readline()  # it is at work
        with pytest.raises(LabelingError, match=f"another job of judge:{MODEL} is at work on this store"):
            run_judge(store, config)
        other = JudgeConfig(base_url=server.base_url, model="another-judge")
        with alone(store, [other]):  # of another judge it is none of its business
            pass
        job.kill()
        job.communicate()
        run_judge(store, config)  # a kill leaves no lock behind
        assert len(read(store, Judgement)) == 40
        with alone(store, [config]), pytest.raises(LabelingError, match="at work"):
            run_judge(store, config)  # in the same process either


@pytest.mark.timeout(180)
def test_killed_at_random_moments_nothing_is_paid_twice(store, store_url):
    fill(store, COMPARISONS)
    chance = random.Random(0)
    faults = Faults(rate_limited=0.03, cut=0.03, refused=0.05, truncated=0.05, retry_after=0.01)
    with StandInJudge(lambda _, text: float("please" in text), faults=faults, latency=0.05) as server:
        for _ in range(KILLS):
            job = start(store_url, server)
            assert job.stdout.readline()  # it is at work
            time.sleep(chance.uniform(0, 0.25))
            job.kill()
            job.communicate()
            assert job.returncode == -signal.SIGKILL
        before = len(read(store, Judgement))
        run_judge(store, JudgeConfig(base_url=server.base_url, model=MODEL, concurrency=40))
        log = server.log

    assert 0 < before < COMPARISONS
    judgements = read(store, Judgement)
    assert len({j.comparison_id for j in judgements}) == len(judgements) == COMPARISONS
    outcomes = Counter(j.outcome for j in judgements)
    assert store.counts()["labels"] == outcomes["verdict"] + outcomes["tie"]
    assert outcomes["api_error"] == 0

    calls = read(store, JudgeCall)
    states = Counter(call.state for call in calls)
    assert states["intent"] == 0
    assert 0 < states["uncertain"] <= KILLS * 4 * 8 + log.faults["cut"]
    # every call has one stored answer, and whatever the server answered beyond that was in flight at a kill
    answered = Counter(body_hash(call) for call in calls if call.state == "answered")
    uncertain = Counter(body_hash(call) for call in calls if call.state == "uncertain")
    assert set(answered.values()) == {1}
    assert len(answered) == 2 * COMPARISONS
    assert set(log.answered) == set(answered)
    assert all(times - 1 <= uncertain[name] for name, times in log.answered.items())
    # and no attempt reached the server without its row
    attempts = Counter(body_hash(call) for call in calls)
    assert all(times <= attempts[name] for name, times in log.attempts.items())


@pytest.mark.timeout(60)
def test_interrupted_the_calls_in_flight_are_kept(sqlite_store, tmp_path):
    fill(sqlite_store, COMPARISONS)
    with StandInJudge(lambda *_: 0.0, manner=Manner(garbage=0), latency=0.3) as server:
        job = start(str(tmp_path / "align.db"), server)
        assert job.stdout.readline()
        job.send_signal(signal.SIGINT)
        _, errors = job.communicate(timeout=20)
        log = server.log
    assert "KeyboardInterrupt" in errors
    calls = read(sqlite_store, JudgeCall)
    assert {call.state for call in calls} == {"answered"}
    assert sum(log.answered.values()) == len(calls) < 2 * COMPARISONS
    assert len(read(sqlite_store, Judgement)) == sqlite_store.counts()["labels"] > 0
