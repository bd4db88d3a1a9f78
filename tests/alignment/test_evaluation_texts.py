"""Perplexity of held-out text: each token predicted once, against a plain forward, and files that will not do."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.cli import run as align
from alignment.errors import AlignmentError
from alignment.evaluation.texts import TextLoss, load_texts, text_loss, windows
from alignment.models import load_policy, load_tokenizer


@given(st.integers(0, 60), st.integers(2, 20))
def test_windows_predict_each_token_once_with_half_a_window_before(length: int, context: int) -> None:
    ids = list(range(length))
    cut = list(windows(ids, context))
    assert [token for _, predicted in cut for token in predicted] == ids[1:]
    for before, predicted in cut:
        assert before
        assert [*before, *predicted] == ids[before[0] : predicted[-1] + 1]
        assert len(before) + len(predicted) <= context
        assert len(before) >= min(context // 2, predicted[0])


def test_the_figures_by_hand() -> None:
    loss = TextLoss(np.array([2 * math.log(4), 2 * math.log(2)]), np.array([2.0, 2.0]), bytes=8)
    assert loss.perplexity().mean == pytest.approx(math.sqrt(8))
    assert loss.bits_per_byte().mean == pytest.approx((2 * 2 + 2 * 1) / 8)
    assert loss.perplexity().low == pytest.approx(2)
    assert loss.perplexity().high == pytest.approx(4)


def test_the_loss_is_that_of_a_plain_forward(tiny_model: Path) -> None:
    model, tokenizer = load_policy(str(tiny_model)), load_tokenizer(str(tiny_model))
    texts = ["The river inn, 河边的旅店.", "x", "guests of the garden cafe " * 9]
    loss = text_loss(model, tokenizer, texts, context=32)
    expected, tokens = 0.0, 0
    for text in texts:
        ids = [tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]
        for at in range(1, len(ids)):
            end = min(
                len(ids), next(end for end in range(32, 1000, 16) if at < end)
            )  # of the window it is in
            with torch.no_grad():
                logits = model(torch.tensor([ids[max(0, end - 32) : at]])).logits[0, -1]
            expected -= logits.log_softmax(-1)[ids[at]].item()
            tokens += 1
    assert loss.tokens.sum() == tokens
    assert loss.nats.sum() == pytest.approx(expected, rel=1e-5)
    assert loss.bytes == sum(len(text.encode()) for text in texts)


def test_texts_from_files(tmp_path: Path) -> None:
    rows = tmp_path / "a.jsonl"
    rows.write_text('{"text": "one"}\n{"text": "two"}\n')
    plain = tmp_path / "a.txt"
    plain.write_text("one\n\ntwo")
    assert load_texts(str(rows)) == ["one", "two"]
    assert load_texts(str(plain)) == ["one\n\ntwo"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"txt": "two"}\n', "row 2: `text`"),
        ("a.jsonl", b"", "is empty"),
        ("a.txt", b" \n", "is empty"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("a.txt", None, "cannot read"),
    ],
)
def test_what_is_no_text_is_said(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(AlignmentError, match=says):
        load_texts(str(file))


def test_perplexity_on_the_command_line(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, text = tmp_path / "prompts.jsonl", tmp_path / "text.txt"
    prompts.write_text('{"prompt": "the inn"}\n')
    text.write_text("The river inn serves fish near the old bridge. " * 30)
    arguments = [
        "eval", f"run={tmp_path}/run", f"policies.base={tiny_model}", f"prompts={prompts}", f"text={text}",
        "sampling.max_new_tokens=2", "--json",
    ]  # fmt: skip
    assert align(arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    expected = text_loss(
        load_policy(str(tiny_model)), load_tokenizer(str(tiny_model)), [text.read_text()], context=256
    )
    assert figures["base.perplexity"] == pytest.approx(expected.perplexity().mean, rel=1e-5)
    assert figures["base.perplexity.low"] <= figures["base.perplexity"] <= figures["base.perplexity.high"]
    assert figures["base.bits_per_byte"] > 0
    assert "perplexity of the text" in (tmp_path / "run" / "report.html").read_text()
