"""Replies become typed outcomes; what cannot be read is never a verdict, a tie or a half."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling.judge.parsing import label_reader
from labeling.judge.parsing import read_reply as read_with


def read_reply(body, use_logprobs):
    return read_with(body, label_reader(use_logprobs=use_logprobs))


def reply(content, finish="stop", logprobs=None, refusal=None):
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return {"choices": [{"message": message, "finish_reason": finish, "logprobs": logprobs}]}


def token(text, **alternatives):
    top = [{"token": name, "logprob": math.log(p)} for name, p in alternatives.items()]
    chosen = next((entry["logprob"] for entry in top if entry["token"] == text), 0.0)
    return {"token": text, "logprob": chosen, "top_logprobs": top}


@pytest.mark.parametrize(
    ("content", "outcome", "p_a"),
    [
        ("A", "verdict", 1.0),
        (" B.\n", "verdict", 0.0),
        ("**A**", "verdict", 1.0),
        ("(C)", "tie", 0.5),
        ("The first is rude.\n\n[[B]]", "verdict", 0.0),
        ("The first one drops a fact.\nVerdict: B", "verdict", 0.0),
        ("My final answer is **A**.", "verdict", 1.0),
        ("Answer A", "verdict", 1.0),
        ("结论：B", "verdict", 0.0),
        ("回答 A", "verdict", 1.0),
        ("B\n\nAnswer B is more complete.", "verdict", 0.0),
        # not one verdict
        ("A\nVerdict: B", "unparsed", None),
        ("[[A]] or [[B]]", "unparsed", None),
        ("A or B? It depends.", "unparsed", None),
        ("Both answers have their merits.", "unparsed", None),
        ("Answer A is rude.\nAnswer B", "unparsed", None),
        ("A careful reading shows that both are fine.", "unparsed", None),
        ("The worse answer is A.", "unparsed", None),
        ("The answer is A bit unclear", "unparsed", None),
        ("a", "unparsed", None),
        ("", "unparsed", None),
        (None, "unparsed", None),
        ("I'm sorry, but I can't compare these.", "refused", None),
        ("抱歉，我无法比较。", "refused", None),
    ],
)
def test_text(content, outcome, p_a):
    reading = read_reply(reply(content), use_logprobs=True)
    assert (reading.outcome, reading.p_a) == (outcome, p_a)
    assert (reading.reason == "") == (outcome in ("verdict", "tie"))


def test_cut_replies():
    assert read_reply(reply("Let me first", "length"), True).outcome == "truncated"
    assert read_reply(reply("I weigh them.\nVerdict: A", "length"), True).outcome == "truncated"
    # the verdict came first: nothing that was cut off can change it
    assert read_reply(reply("A\nbecause it is", "length"), True).p_a == 1.0


def test_refusals_by_the_endpoint():
    assert read_reply(reply(None, refusal="I will not."), True).outcome == "refused"
    assert read_reply(reply("A", "content_filter"), True).outcome == "refused"


@pytest.mark.parametrize(
    "body", [{}, {"choices": []}, {"unreadable": "<html>"}, {"choices": [{"message": None}]}, {"choices": 3}]
)
def test_what_is_no_chat_completion(body):
    reading = read_reply(body, True)
    assert reading.outcome == "unparsed"
    assert "not a chat completion" in reading.reason


def test_probability_from_logprobs():
    # P(A) = (.45 + .15 + .1/2) / (.45 + .15 + .2 + .1) = .65 / .9
    logprobs = {"content": [token("A", **{"A": 0.45, " A": 0.15, "B": 0.2, "C": 0.1, "x": 0.05})]}
    reading = read_reply(reply("A", logprobs=logprobs), True)
    assert reading.p_a == pytest.approx(0.65 / 0.9)
    assert reading.label_mass == pytest.approx(0.9)
    assert read_reply(reply("A", logprobs=logprobs), False).p_a == 1.0


def test_the_logprobs_are_those_of_the_label_token():
    pieces = [token("A", A=0.9, B=0.1), token(" poor first.\n[["), token("B", A=0.2, B=0.8), token("]]")]
    reading = read_reply(reply("A poor first.\n[[B]]", logprobs={"content": pieces}), True)
    assert (reading.label, reading.p_a) == ("B", pytest.approx(0.2))


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"content": None},
        {"content": [{"token": "A"}]},
        {"content": [{"token": "**A**", "logprob": -0.1}]},
        {"content": [{"token": "A", "logprob": "high", "top_logprobs": None}]},
        {"content": [{"token": "A", "logprob": -1e9, "top_logprobs": []}]},
        {"content": [{"token": "A", "logprob": float("nan"), "top_logprobs": []}]},
        {"content": [{"token": "A", "logprob": 1e9, "top_logprobs": []}]},
    ],
)
def test_without_usable_logprobs_the_text_decides(logprobs):
    reading = read_reply(reply("A", logprobs=logprobs), True)
    assert (reading.outcome, reading.p_a, reading.label_mass) == ("verdict", 1.0, None)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["message", "content", "token"]), inner),
)


@given(json_values, json_values)
def test_no_reply_brings_the_parser_down(message, logprobs):
    body = {"choices": [{"message": message, "logprobs": logprobs}]}
    assert read_reply(body, True).outcome in ("verdict", "tie", "unparsed", "refused")


@given(st.text(st.characters(exclude_characters="ABC")))
def test_no_letter_no_verdict(text):
    assert read_reply(reply(text), True).p_a is None
