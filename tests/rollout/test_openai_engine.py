"""The endpoint engine against a real HTTP server: what it sends, what it bears, what it refuses and in which words."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from rollout import RolloutError, Sampling
from rollout.endpoint import Endpoint, is_loopback, seconds_to_wait
from rollout.openai_engine import OpenAIEngine, read_reply
from tests.rollout.stand_in_endpoint import MODEL, StandInEndpoint

SHORT = Sampling(max_new_tokens=7)


def ask(n: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"question {i}"}] for i in range(n)]


def answers(server, prompts, n=2, sampling=SHORT, model=MODEL, **settings):
    engine = OpenAIEngine(model, Endpoint(base_url=server.base_url, **settings))
    found = dict(engine.answers(prompts, n, sampling, range(0, 100 * len(prompts), 100)))
    return [found[i] for i in range(len(prompts))]


def test_every_prompt_gets_its_answers_and_requests_run_side_by_side():
    with StandInEndpoint(latency=0.05) as server:
        found = answers(server, ask(20), n=3, concurrency=5)
        assert server.busiest == 5
    assert [len(one.texts) for one in found] == [3] * 20
    assert all(one.tokens == sum(len(t.text.split()) for t in one.texts) for one in found)
    assert sorted(body["seed"] for body in server.bodies) == list(range(0, 2000, 100))
    first = min(server.bodies, key=lambda body: body["seed"])
    assert first == {
        "model": MODEL, "messages": ask(1)[0], "max_tokens": 7, "n": 3, "seed": 0, "temperature": 1.0, "top_p": 1.0
    }  # fmt: skip


def test_sampling_is_sent_as_it_was_set():
    with StandInEndpoint() as server:
        answers(server, ask(1), sampling=Sampling(temperature=0.7, top_p=0.9, top_k=5))
    body = server.bodies[0]
    assert (body["temperature"], body["top_p"], body["top_k"], body["max_tokens"]) == (0.7, 0.9, 5, 256)


@pytest.mark.parametrize("trouble", [429, 500, 503, 408, "drop", "html", "hang"])
def test_what_may_pass_is_tried_again(trouble):
    with StandInEndpoint(trouble, retry_after=0) as server:
        found = answers(server, ask(1), timeout_seconds=0.5)
    assert [len(one.texts) for one in found] == [2]
    assert len(server.bodies) == 2


def test_retry_after_is_waited_for():
    with StandInEndpoint(429, retry_after=0.6) as server:
        started = time.perf_counter()
        answers(server, ask(1))
    assert time.perf_counter() - started >= 0.6


def test_a_wait_of_hours_ends_the_run():
    with (
        StandInEndpoint(429, retry_after=7200) as server,
        pytest.raises(RolloutError, match="asks to wait 7200 s"),
    ):
        answers(server, ask(1))


def test_an_endpoint_that_keeps_failing_ends_the_run():
    with (
        StandInEndpoint(*[503] * 9, retry_after=0) as server,
        pytest.raises(RolloutError, match=r"failed 3 times, the last time with: 503: busy; the same command"),
    ):
        answers(server, ask(1), max_attempts=3)
    assert len(server.bodies) == 3  # the client adds no retries of its own


@pytest.mark.parametrize("refused", ["max_tokens", "seed", "n", "temperature"])
def test_parameters_that_an_endpoint_refuses_are_done_without(refused):
    with StandInEndpoint(refuses=[refused]) as server:
        found = answers(server, ask(6), concurrency=1)
    assert [len(one.texts) for one in found] == [2] * 6
    assert all(refused not in body for body in server.bodies[1:])
    if refused == "max_tokens":
        assert server.bodies[-1]["max_completion_tokens"] == 7


def test_an_endpoint_that_gives_one_choice_is_asked_again_with_another_seed():
    with StandInEndpoint(gives=1) as server:
        (found,) = answers(server, ask(1), n=3)
    assert [(body.get("n"), body["seed"]) for body in server.bodies] == [(3, 0), (2, 1), (None, 2)]
    assert len({text.text for text in found.texts}) == 3


def test_a_prompt_that_is_refused_is_a_failure_of_its_own():
    with StandInEndpoint() as server:
        bad = [{"role": "user", "content": "something forbidden"}]
        found = answers(server, [*ask(2), bad])
    assert [one.failure for one in found] == [None, None, "400: this prompt is against the rules"]
    assert found[2].texts == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "gpt-none"}, r"404: the model 'gpt-none' does not exist.*policy\.path"),
        ({"sampling": Sampling(temperature=0.5)}, r"refuses sampling\.temperature"),
    ],
)
def test_what_no_request_will_mend_ends_the_run(settings, message):
    with StandInEndpoint(refuses=["temperature"]) as server, pytest.raises(RolloutError, match=message):
        answers(server, ask(1), **settings)


def test_nobody_there_is_said_at_once():
    with StandInEndpoint() as server:
        pass
    with pytest.raises(RolloutError, match="cannot reach"):
        answers(server, ask(1))


def test_the_key_comes_from_its_variable_and_is_never_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-endpoint")
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with StandInEndpoint(key="sk-secret") as server:
        assert answers(server, ask(1), api_key_env="MY_KEY")[0].texts
        with pytest.raises(RolloutError, match=r"401: wrong key.*api_key_env"):
            answers(server, ask(1))
        assert "sk-of-another-endpoint" not in str(server.headers)
        monkeypatch.setenv("MY_KEY", "sk-wrong")
        with pytest.raises(RolloutError, match=r"Bearer \[key\].*is the key in MY_KEY right\?"):
            answers(server, ask(1), api_key_env="MY_KEY")
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(RolloutError, match="variable MY_KEY is not set"):
        OpenAIEngine(MODEL, Endpoint(api_key_env="MY_KEY"))


def test_an_address_is_an_address():
    with pytest.raises(RolloutError, match="http://host:port/v1"):
        OpenAIEngine(MODEL, Endpoint(base_url="localhost:8000"))


def test_replies_are_read_for_what_they_are():
    texts, tokens = read_reply('{"choices": [{"message": {"content": null}, "finish_reason": "length"}]}')
    assert [(t.text, t.finish_reason) for t in texts] == [("", "length")]
    assert tokens == 0
    assert read_reply('{"choices": [{"message": {"content": "a\\ud800"}}]}')[0][0].text == "a?"
    for bad in ("[]", "{}", '{"choices": []}', "null", '{"choices": [{}]}'):
        with pytest.raises(Exception, match="no chat completion"):
            read_reply(bad)


def test_waits_are_read_as_seconds_or_dates():
    assert seconds_to_wait({}) is None
    assert seconds_to_wait({"retry-after": "2.5"}) == 2.5
    assert seconds_to_wait({"retry-after": "soon"}) is None
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < seconds_to_wait({"retry-after": date}) <= 30
    assert is_loopback("http://127.0.0.1:1/v1")
    assert not is_loopback("https://example.org/v1")
