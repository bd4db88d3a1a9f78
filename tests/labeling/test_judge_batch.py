"""The batch API: submitted, lost, expired, killed and collected, against the stand-in over HTTP."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from alignment.demo.stand_in_judge import MODEL, BatchManner, Faults, StandInJudge
from labeling.errors import LabelingError
from labeling.judge.calls.batch_client import read_lines
from labeling.judge.calls.prices import PICO
from labeling.judge.config import JudgeConfig, Price
from labeling.judge.job import run_judge
from labeling.schema import JudgeBatch, JudgeCall, Judgement
from labeling.views import NewCompletion
from tests.labeling.judging import CLEAR, config, fill, politeness, rows


def batched(server, **changes):
    return config(server, poll_seconds=0.05, **changes)


def test_a_batch_labels_what_single_calls_would(store):
    fill(store, 6)
    with StandInJudge(politeness, manner=CLEAR) as server:
        report = run_judge(store, batched(server, batch_size=5), batch=True)
        again = run_judge(store, batched(server, only="all"), batch=True)
        log = server.log
    assert (report.outcomes, report.labels) == ({"verdict": 6}, 6)
    assert (report.calls.attempts, report.calls.answered, report.calls.reused) == (12, 12, 12)
    assert again.calls.attempts == 0
    assert set(log.answered.values()) == {1}
    assert [(one.state, one.status, one.calls) for one in rows(store, JudgeBatch)] == [
        ("collected", "completed", n) for n in (5, 5, 2)
    ]
    assert [label.p_first > 0.5 for label in store.effective_labels()] == [True, False] * 3


def test_what_a_batch_did_not_do_goes_into_the_next(sqlite_store):
    fill(sqlite_store, 20)
    manner = BatchManner(expires=0.7, lost=0.4)
    with StandInJudge(
        politeness, manner=CLEAR, batches=manner, faults=Faults(server_error=0.1), seed=5
    ) as server:
        report = run_judge(sqlite_store, batched(server, batch_size=16, max_attempts=12), batch=True)
        log = server.log
        submitted = len(server.batches.batches)
    batches = rows(sqlite_store, JudgeBatch)
    assert {"completed", "expired"} <= {one.status for one in batches}
    assert len(batches) == submitted > 3
    assert report.outcomes == {"verdict": 20}
    assert set(log.answered.values()) == {1}  # nothing that was answered was asked again
    states = Counter(call.state for call in rows(sqlite_store, JudgeCall))
    assert (states["answered"], states["intent"], states["uncertain"]) == (40, 0, 0)


JOB = """
import sys
from labeling.judge.config import JudgeConfig
from labeling.judge.job import run_judge
from labeling.store import Store
run_judge(Store.open(sys.argv[1]), JudgeConfig(base_url=sys.argv[2], model=sys.argv[3], poll_seconds=0.05), batch=True)
"""


@pytest.mark.timeout(120)
def test_killed_while_it_waits_the_next_run_collects(sqlite_store, tmp_path):
    fill(sqlite_store, 5)
    with StandInJudge(politeness, manner=CLEAR, batches=BatchManner(seconds=2.0)) as server:
        command = [sys.executable, "-c", JOB, str(tmp_path / "align.db"), server.base_url, MODEL]
        job = subprocess.Popen(command, stderr=subprocess.PIPE)
        while not rows(sqlite_store, JudgeBatch):
            time.sleep(0.02)
        job.kill()
        job.communicate()
        assert job.returncode == -signal.SIGKILL
        with pytest.raises(LabelingError, match="a batch of stand-in-judge is open"):
            run_judge(sqlite_store, config(server))
        report = run_judge(sqlite_store, batched(server), batch=True)
        assert len(server.batches.batches) <= 2
        assert set(server.log.answered.values()) == {1}
    assert report.outcomes == {"verdict": 5}


def test_the_budget_bounds_a_batch_and_what_was_not_asked_stays_waiting(sqlite_store):
    fill(sqlite_store, 20)
    with StandInJudge(politeness, manner=CLEAR) as server:
        judge = batched(server, price=Price(input=0.15, output=0.6), budget=0.003)
        report = run_judge(sqlite_store, judge, batch=True)
        paid = sum(call.cost for call in rows(sqlite_store, JudgeCall))
        assert report.stopped_by_budget
        assert report.cost == paid <= 0.003 * PICO
        assert 0 < report.labels < 20
        assert len(rows(sqlite_store, Judgement)) == report.labels
        assert run_judge(sqlite_store, batched(server), batch=True).labels == 20 - report.labels


def test_equal_texts_are_in_one_batch_only(sqlite_store):
    """Their second mention falls into another page, while the first is on its way."""
    prompt = [{"role": "user", "content": "Invite."}]
    for model in ("m1", "m2", "m3"):
        sides = [NewCompletion([{"role": "assistant", "content": t}], model) for t in ("please come", "come")]
        sqlite_store.add_comparison(prompt, sides)
    with StandInJudge(politeness, manner=CLEAR) as server:
        report = run_judge(sqlite_store, batched(server, batch_size=2), batch=True)
        assert len(server.batches.batches) == 1
    assert (report.labels, report.calls.attempts, report.calls.reused) == (3, 2, 6)


def test_an_endpoint_without_batches(sqlite_store):
    fill(sqlite_store, 1)
    with StandInJudge(politeness, api_key="k") as server:
        url = server.base_url + "/elsewhere"
        with pytest.raises(LabelingError, match=r"has no batch API \(404\); run without --batch"):
            run_judge(sqlite_store, JudgeConfig(base_url=url, model=MODEL), batch=True)
    assert [one.state for one in rows(sqlite_store, JudgeBatch)] == ["collected"]
    assert {call.state for call in rows(sqlite_store, JudgeCall)} == {"failed"}


def test_lines_that_say_nothing_are_passed_over():
    good = {"custom_id": "k1", "response": {"status_code": 200, "body": {"choices": []}}}
    bad = {"custom_id": "k2", "response": {"status_code": 400, "body": {"error": {"message": "too long"}}}}
    late = {"custom_id": "k3", "response": None, "error": {"message": "expired"}}
    text = "\n".join([json.dumps(good), "{", "[]", '"x"', json.dumps(bad), '{"no": "id"}', json.dumps(late)])
    assert [(line.key, line.reply, line.error) for line in read_lines(text)] == [
        ("k1", {"choices": []}, ""),
        ("k2", None, "400: too long"),
        ("k3", None, "not run: expired"),
    ]
