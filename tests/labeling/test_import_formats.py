"""Each format: recognised by its columns, read as it is meant, refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling.errors import LabelingError
from labeling.importers.recognise import find_format, recognise
from labeling.importers.records import Answer, Pair, Question, Unfit, split_dialogue, split_pair


def said(*turns: str) -> list[dict[str, str]]:
    """ "u:hello" is what the user said, "a:" the assistant, "s:" the system, "t:" a tool."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    return [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns]


def sharegpt(*turns: str) -> list[dict[str, str]]:
    names = {"u": "human", "a": "gpt", "s": "system", "f": "function_call", "t": "observation"}
    return [{"from": names[turn[0]], "value": turn[2:]} for turn in turns]


CASES = [
    (
        "hh-rlhf",
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        Pair(said("u:q"), said("a:a"), said("a:b")),
    ),
    (
        "hh-rlhf",
        {
            "chosen": "\n\nHuman: q\n\nAssistant: x\n\nHuman: r\n\nHuman: s\n\nAssistant: a\n\nb",
            "rejected": "\n\nHuman: q\n\nAssistant: x\n\nHuman: r\n\nHuman: s\n\nAssistant: c",
        },
        Pair(said("u:q", "a:x", "u:r\n\ns"), said("a:a\n\nb"), said("a:c")),
    ),
    (
        "trl-preference",
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        Pair(said("u:q"), said("a:a"), said("a:b")),
    ),
    (
        "trl-preference",
        {"prompt": said("s:be kind", "u:q"), "chosen": said("a:a"), "rejected": said("a:b")},
        Pair(said("s:be kind", "u:q"), said("a:a"), said("a:b")),
    ),
    (
        "trl-preference-implicit",
        {"chosen": said("u:q", "a:a"), "rejected": said("u:q", "a:b")},
        Pair(said("u:q"), said("a:a"), said("a:b")),
    ),
    (
        "trl-preference-implicit",
        {"chosen": "The sky is blue.", "rejected": "The sky is black."},
        Pair(said("u:The sky is"), said("a:blue."), said("a:black.")),
    ),
    (
        "ultrafeedback",
        {
            "prompt": "q",
            "chosen": said("u:q", "a:a"),
            "rejected": said("u:q", "a:b"),
            "score_chosen": 8.5,
            "score_rejected": 7,
        },
        Pair(said("u:q"), said("a:a"), said("a:b"), margin=1.5),
    ),
    (
        "ultrafeedback",
        {
            "chosen": said("u:q", "a:a"),
            "rejected": said("u:q", "a:b"),
            "score_chosen": "4",
            "score_rejected": 4.0,
        },
        Pair(said("u:q"), said("a:a"), said("a:b"), tie=True),
    ),
    (
        "sharegpt-preference",
        {
            "conversations": sharegpt("u:q", "a:x", "u:r"),
            "system": "be kind",
            "chosen": sharegpt("a:a")[0],
            "rejected": sharegpt("a:b")[0],
        },
        Pair(said("s:be kind", "u:q", "a:x", "u:r"), said("a:a"), said("a:b")),
    ),
    (
        "alpaca-preference",
        {"instruction": "i", "input": "x", "chosen": "a", "rejected": "b"},
        Pair(said("u:i\nx"), said("a:a"), said("a:b")),
    ),
    ("kto", {"messages": said("u:q", "a:a"), "label": True}, Answer(said("u:q"), said("a:a"))),
    (
        "kto",
        {"conversations": sharegpt("u:q", "a:a"), "kto_tag": "False"},
        Answer(said("u:q"), said("a:a"), desirable=False),
    ),
    (
        "kto",
        {"prompt": "q", "completion": "a", "label": False},
        Answer(said("u:q"), said("a:a"), desirable=False),
    ),
    (
        "sharegpt",
        {"conversations": sharegpt("u:q", "f:look()", "t:found", "a:a"), "system": "", "tools": ""},
        Answer(said("u:q", "a:look()", "t:found"), said("a:a")),
    ),
    ("messages", {"messages": said("s:x", "u:q", "a:a")}, Answer(said("s:x", "u:q"), said("a:a"))),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "q"}], "name": None},
                {"role": "assistant", "content": "a"},
            ]
        },
        Answer(said("u:q"), said("a:a")),
    ),
    (
        "alpaca",
        {"instruction": "i", "input": "", "output": "o"},
        Answer(said("u:i"), said("a:o")),
    ),
    (
        "alpaca",
        {"instruction": "i", "input": "x", "output": "o", "system": "s", "history": [["q", "a"]]},
        Answer(said("s:s", "u:q", "a:a", "u:i\nx"), said("a:o")),
    ),
    ("prompt-response", {"mr": "name[X]", "ref": "X."}, Answer(said("u:name[X]"), said("a:X."))),
    ("prompt-response", {"question": "q", "answer": "a"}, Answer(said("u:q"), said("a:a"))),
    ("prompt-response", {"prompt": said("u:q"), "completion": said("a:a")}, Answer(said("u:q"), said("a:a"))),
    ("prompts", {"prompt": "q"}, Question(said("u:q"))),
    ("prompts", {"instruction": "i", "input": "x"}, Question(said("u:i\nx"))),
    ("prompts", {"turns": ["q", "r"]}, Question(said("u:q"), {"later_turns": ["r"]})),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "item"), CASES)
def test_rows_are_recognised_and_read(name, row, item):
    form, why = recognise([row, row], "x")
    assert form.name == name
    assert why.startswith("2 of the first 2 rows have ")
    assert form.convert(row) == item


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("hh-rlhf", {"chosen": "x\n\nHuman: q", "rejected": "\n\nHuman: q"}, "does not begin with 'Human:'"),
        (
            "hh-rlhf",
            {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: r\n\nAssistant: a"},
            "share no prompt",
        ),
        (
            "hh-rlhf",
            {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: a"},
            "two sides are the same",
        ),
        (
            "ultrafeedback",
            {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2},
            "higher score",
        ),
        (
            "ultrafeedback",
            {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": "high", "score_rejected": 2},
            "'score_chosen' is not a number",
        ),
        (
            "trl-preference",
            {"prompt": "other", "chosen": said("u:q", "a:a"), "rejected": said("u:q", "a:b")},
            "prompt is not in the conversation",
        ),
        (
            "trl-preference",
            {"prompt": "q", "chosen": "a", "rejected": 5},
            "'rejected' is not a list of turns",
        ),
        ("trl-preference", {"prompt": "q", "chosen": [], "rejected": "b"}, "'chosen' is not a list of turns"),
        ("trl-preference-implicit", {"chosen": "Blue.", "rejected": "Black."}, "share no prompt"),
        (
            "messages",
            {"messages": [*said("u:q"), {"role": "assistant", "content": "", "tool_calls": [{}]}]},
            "carries 'tool_calls'",
        ),
        ("messages", {"messages": said("u:q", "a:a"), "tools": "[{}]"}, "comes with tools"),
        ("messages", {"messages": [{"role": "robot", "content": "q"}]}, "unknown role 'robot'"),
        ("messages", {"messages": said("u:q")}, "does not end in an answer"),
        ("messages", {"messages": ["q"]}, "not an object"),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "is not text",
        ),
        ("alpaca", {"instruction": 5, "output": "o"}, "'instruction' is not text"),
        ("alpaca", {"instruction": "i", "output": "o", "history": [["q"]]}, r"list of \[question, answer\]"),
        ("kto", {"messages": said("u:q", "a:a"), "label": "good"}, "neither true nor false"),
    ],
)
def test_rows_that_cannot_be_read_say_why(name, row, reason):
    with pytest.raises(Unfit, match=reason):
        find_format(name).convert(row)


def test_a_few_odd_rows_do_not_change_the_format():
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert recognise([{"prompt": "q"}, *[good] * 4], "x")[0].name == "trl-preference"


def test_unknown_columns_and_names():
    with pytest.raises(LabelingError, match=r"columns \(label, text\).*--prompt-column"):
        recognise([{"text": "x", "label": "pos"}], "x")
    with pytest.raises(LabelingError, match=r"did you mean 'hh-rlhf'"):
        find_format("hh_rlhf")
    with pytest.raises(LabelingError, match=r"known: auto, hh-rlhf"):
        find_format("zzz")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text.strip() and "Human" not in text and "Assistant" not in text
)


@given(st.lists(TEXT, min_size=1, max_size=6))
def test_transcripts_keep_every_turn(texts):
    names = ["Human", "Assistant"]
    transcript = "".join(f"\n\n{names[i % 2]}: {text.strip()}" for i, text in enumerate(texts))
    assert [turn["content"] for turn in split_dialogue(transcript, "x")] == [t.strip() for t in texts]


TURNS = st.lists(st.sampled_from(["u:1", "a:1", "a:2", "u:2"]), min_size=1, max_size=5).map(
    lambda t: said(*t)
)


@given(TURNS, TURNS, TURNS)
def test_a_split_pair_can_be_put_together_again(start, left, right):
    chosen, rejected = start + left, start + right
    try:
        prompt, first, second = split_pair(chosen, rejected)
    except Unfit:
        return
    assert (prompt + first, prompt + second) == (chosen, rejected)
    assert prompt[-1]["role"] == "user"


@pytest.mark.parametrize(
    ("file", "name", "rejected"),
    [
        ("hh_harmless_base_test", "hh-rlhf", 1),
        ("hh_helpful_base_test", "hh-rlhf", 0),
        ("llamafactory_dpo_en_demo", "sharegpt-preference", 0),
        ("llamafactory_dpo_zh_demo", "sharegpt-preference", 0),
        ("llamafactory_kto_en_demo", "kto", 0),
        ("llamafactory_alpaca_zh_demo", "alpaca", 0),
        ("mt_bench_questions", "prompts", 0),
        ("hhh_alignment", "trl-preference", 0),
        ("e2e_dev", "prompt-response", 0),
    ],
)
def test_real_data(sqlite_store, shared_data, tmp_path, file, name, rejected):
    from labeling.importers import import_path

    source: Path = shared_data / f"{file}.jsonl.gz"
    report = import_path(sqlite_store, source, limit=200, rejects=tmp_path / "rejects.jsonl")
    assert report.format == name
    assert report.counts["rejected"] == rejected
    assert report.counts["added"] >= 0.4 * report.counts["rows"]  # e2e repeats its questions and answers
    again = import_path(sqlite_store, source, limit=200, rejects=tmp_path / "rejects.jsonl")
    assert (again.counts["added"], again.counts["duplicate"]) == (0, again.counts["rows"] - rejected)
    if rejected:
        (line,) = (tmp_path / "rejects.jsonl").read_text().splitlines()
        assert json.loads(line)["reason"] == "an answer is empty"
