"""Rows to tokens: which tokens carry loss, and which rows are refused."""

from __future__ import annotations

import pytest

from alignment.errors import AlignmentError
from alignment.scratch import train_tokenizer
from alignment.sft_data import IGNORED, Encoded, Example, encode, encode_one, read_examples

TOKENIZER = train_tokenizer(["hello there, how are you?"], 280)
USER, ANSWER = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "you"}


def decoded(ids: list[int]) -> str:
    return TOKENIZER.decode(ids)


def test_loss_is_on_the_answer_and_its_end():
    encoded = encode_one(Example([USER], [ANSWER]), TOKENIZER, 64)
    assert isinstance(encoded, Encoded)
    assert decoded(encoded.input_ids) == "<|user|>hello<|end|><|assistant|>you<|end|>"
    learnt = [i for i, label in zip(encoded.input_ids, encoded.labels, strict=True) if label != IGNORED]
    assert decoded(learnt) == "you<|end|>"
    assert all(label in (i, IGNORED) for i, label in zip(encoded.input_ids, encoded.labels, strict=True))


def test_loss_keeps_the_end_when_pad_is_the_end():
    tokenizer = train_tokenizer(["hello there, how are you?"], 280)
    tokenizer.pad_token = tokenizer.eos_token
    encoded = encode_one(Example([USER], [ANSWER]), tokenizer, 64)
    assert isinstance(encoded, Encoded)
    assert encoded.labels[-1] == tokenizer.eos_token_id


def test_texts_and_messages_are_the_same_example():
    rows = [
        {"prompt": "hello", "completion": "you"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"messages": [USER, ANSWER]},
    ]
    assert [example for _, example in read_examples(rows, "f")] == [Example([USER], [ANSWER])] * 3


def test_every_assistant_turn_is_learnt_once():
    system = {"role": "system", "content": "s"}
    turns = [system, USER, ANSWER, USER, ANSWER]
    examples = [example for _, example in read_examples([{"messages": turns}], "f")]
    assert examples == [Example(turns[:2], [ANSWER]), Example(turns[:4], [ANSWER])]


def test_limits_are_inclusive():
    length = len(encode_one(Example([USER], [ANSWER]), TOKENIZER, 64).input_ids)
    assert isinstance(encode_one(Example([USER], [ANSWER]), TOKENIZER, length), Encoded)
    assert "prompt and completion longer" in encode_one(Example([USER], [ANSWER]), TOKENIZER, length - 1)
    assert encode_one(Example([USER], [ANSWER]), TOKENIZER, 3).startswith("prompt longer")


def test_a_template_that_rewrites_the_prompt_is_noticed():
    tokenizer = train_tokenizer(["hello there, how are you?"], 280)
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    kept, dropped = encode(read_examples([{"prompt": "hello", "completion": "you"}], "f"), tokenizer, 64)
    assert kept == []
    assert [(d.row, "renders the prompt differently" in d.reason) for d in dropped] == [(1, True)]


@pytest.mark.parametrize("messages", [[{"role": "user"}], [3], {"role": "user", "content": "x"}])
def test_messages_of_the_wrong_form(messages):
    with pytest.raises(AlignmentError, match=r"f, row 2: `messages` must be"):
        list(read_examples([{"messages": [USER, ANSWER]}, {"messages": messages}], "f"))
