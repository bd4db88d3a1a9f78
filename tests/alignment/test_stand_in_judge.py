"""The stand-in judge: deterministic, biased as told, failing as told, and never to be taken for a model."""

from __future__ import annotations

import math
import time

import httpx
import pytest

from alignment.demo.stand_in_judge import MODEL, Faults, Manner, StandInJudge
from labeling.hashing import content_hash
from labeling.judge.config import JudgeConfig
from labeling.judge.judge import Judge
from labeling.views import ComparisonView


def length(_prompt: str, answer: str) -> float:
    return float(len(answer))


def request(first: str, second: str, prompt: str = "Say something.", **changes):
    sides = tuple(([{"role": "assistant", "content": text}], "") for text in (first, second))
    view = ComparisonView(1, [{"role": "user", "content": prompt}], sides)
    return Judge(JudgeConfig(model=MODEL)).questions(view)[0].call.body | changes


def post(server, body, **headers):
    with httpx.Client(trust_env=False) as client:
        return client.post(f"{server.base_url}/chat/completions", json=body, headers=headers, timeout=5)


def content(reply):
    return reply.json()["choices"][0]["message"]["content"]


def test_it_says_what_it_is():
    with StandInJudge(length) as server, httpx.Client(trust_env=False) as client:
        models = client.get(f"{server.base_url}/models").json()
        reply = post(server, request("a", "bb")).json()
    assert [(model["id"], model["owned_by"]) for model in models["data"]] == [("stand-in-judge", "stand-in")]
    assert reply["model"] == "stand-in-judge"
    assert reply["id"].startswith("stand-in-")


def test_it_prefers_the_better_answer_in_either_place():
    with StandInJudge(length, manner=Manner(noise=0, first_bias=0, garbage=0)) as server:
        first = post(server, request("longer one", "short")).json()["choices"][0]
        second = post(server, request("short", "longer one")).json()["choices"][0]
        equal = post(server, request("same", "same"))
    assert (first["message"]["content"], second["message"]["content"]) == ("A", "B")
    assert content(equal) in "ABC"
    [token] = first["logprobs"]["content"]
    total = sum(math.exp(entry["logprob"]) for entry in token["top_logprobs"])
    assert total == pytest.approx(1.0)
    assert token["token"] == "A"
    assert token["logprob"] == max(entry["logprob"] for entry in token["top_logprobs"])


def test_quality_is_given_the_texts_as_they_were():
    seen = []
    with StandInJudge(lambda prompt, answer: seen.append((prompt, answer)) or 0.0) as server:
        post(server, request("one\n\ntwo", "three", prompt="Line 1\nLine 2 & <b>"))
    assert seen == [("Line 1\nLine 2 & <b>", "one\n\ntwo"), ("Line 1\nLine 2 & <b>", "three")]


def test_it_likes_what_comes_first():
    """Between answers of equal quality: P(A) against P(B) is e to the bias."""
    judge = StandInJudge(lambda *_: 0.0, manner=Manner(noise=0, first_bias=0.4))
    p = judge.mind.label_probabilities(request("x", "y")["messages"][0]["content"])
    assert p["A"] / p["B"] == pytest.approx(math.exp(0.4))


def test_noise_belongs_to_the_answer_and_to_the_seed():
    def lead(seed, first, second):
        judge = StandInJudge(lambda *_: 0.0, seed=seed, manner=Manner(noise=1.0, first_bias=0.0))
        p = judge.mind.label_probabilities(request(first, second)["messages"][0]["content"])
        return math.log(p["A"] / p["B"])

    assert lead(0, "x", "y") == pytest.approx(-lead(0, "y", "x"))
    assert lead(0, "x", "y") == lead(0, "x", "y") != lead(1, "x", "y")


def test_replies_do_not_depend_on_the_order_of_requests():
    bodies = [request(f"answer {i}", "other") for i in range(20)]
    replies = []
    for order in (bodies, bodies[::-1]):
        with StandInJudge(length, manner=Manner(garbage=0.3)) as server:
            replies.append({content_hash(body): post(server, body).json() for body in order})
    assert replies[0] == replies[1]
    said = [reply["choices"][0]["message"]["content"] for reply in replies[0].values()]
    assert 1 <= sum(text not in "ABC" for text in said) <= 12  # 6 expected


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("rate_limited", lambda r: r.status_code == 429 and r.headers["retry-after"] == "0.05"),
        ("server_error", lambda r: r.status_code == 500 and "error" in r.json()),
        ("refused", lambda r: content(r) is None and r.json()["choices"][0]["message"]["refusal"]),
        ("truncated", lambda r: r.json()["choices"][0]["finish_reason"] == "length"),
        ("wrong_json", lambda r: r.status_code == 200 and r.text.startswith("<html>")),
    ],
)
def test_faults(fault, check):
    with StandInJudge(length, manner=Manner(garbage=0), faults=Faults(**{fault: 1.0})) as server:
        body = request("x", "yy")
        assert check(post(server, body))
        paid = fault in ("refused", "truncated", "wrong_json")
        assert server.log.answered == ({content_hash(body): 1} if paid else {})
        assert server.log.attempts == {content_hash(body): 1}


def test_a_cut_connection_and_a_slow_reply():
    with StandInJudge(length, faults=Faults(cut=1.0)) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            post(server, request("x", "yy"))
        assert (sum(server.log.answered.values()), server.log.faults["cut"]) == (0, 1)
        server.faults = Faults(slow=1.0, slow_seconds=0.3)
        started = time.monotonic()
        assert post(server, request("x", "yy")).status_code == 200
        assert time.monotonic() - started >= 0.3


def test_key_and_model_are_asked_for():
    with StandInJudge(length, api_key="k") as server:
        body = request("x", "yy")
        assert post(server, body).status_code == 401
        assert post(server, body, authorization="Bearer k").status_code == 200
        assert post(server, body | {"model": "gpt"}, authorization="Bearer k").status_code == 404
        assert sum(server.log.attempts.values()) == 1


def test_without_a_fence_there_is_no_verdict():
    with StandInJudge(length) as server:
        reply = post(server, {"model": MODEL, "messages": [{"role": "user", "content": "A or B?"}]})
    assert content(reply) not in ("A", "B", "C")
