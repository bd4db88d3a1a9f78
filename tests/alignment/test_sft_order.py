"""The order of training: passes by hand, what must hold of any, and the batches that a run really trains on."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from alignment import sft_losses
from alignment.config import load_config
from alignment.errors import AlignmentError, ConfigError
from alignment.models import load_policy, load_tokenizer
from alignment.sft import SFTConfig, plan, train_sft
from alignment.sft_order import passes
from tests.alignment.sft_runs import batches, sft_config, write
from tests.alignment.test_sft import interrupted_at

ROWS = [
    {"prompt": f"guest {i}?", "completion": "fish " * (1 + 7 * i % 23), "level": (5 * i) % 22 / 2}
    for i in range(22)
]


def said(ids: list[int], model: Path) -> str:
    """The prompt in a row of a batch."""
    text: str = loaded(model)[1].decode(ids)
    return text.split("<|user|>")[1].split("<|end|>", maxsplit=1)[0]


def test_passes_by_hand() -> None:
    examples = {"a": [3, 1, 2], "b": [10]}
    shares = {"a": 0.75, "b": 0.25}
    assert passes(examples, shares, 8, 0, float) == [1, 2, 3, 10] * 2
    assert passes(examples, {"a": 0.25, "b": 0.75}, 4, 0, float)[1:] == [10, 10, 10]
    shuffled = passes(examples, shares, 400, 0, None)
    assert all(sorted(shuffled[i : i + 4]) == [1, 2, 3, 10] for i in range(0, 400, 4))
    assert len({tuple(shuffled[i : i + 4]) for i in range(0, 400, 4)}) > 12


@settings(deadline=None)  # torch is loaded by the first example
@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 20), min_size=1), st.integers(1, 90), st.booleans()
)
def test_passes_are_whole_and_sorted(sizes: dict[str, int], total: int, ordered: bool) -> None:
    examples = {name: [(name, i) for i in range(n)] for name, n in sizes.items()}
    once = sum(sizes.values())
    shares = {name: n / once for name, n in sizes.items()}
    found = passes(examples, shares, total, 0, (lambda one: one[1] % 5) if ordered else None)
    assert len(found) == total
    for begin in range(0, total, once):
        one_pass = found[begin : begin + once]
        assert max(Counter(one_pass).values()) <= 2 - (len(one_pass) == once)
        if ordered:
            assert [i % 5 for _, i in one_pass] == sorted(i % 5 for _, i in one_pass)
    assert passes(examples, shares, total, 0, None) == passes(examples, shares, total, 0, None)


@pytest.mark.parametrize("order", [pytest.param("length", marks=pytest.mark.slow), "column:level", "loss"])
def test_batches_come_from_easy_to_hard(
    order: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "data.jsonl", ROWS)
    with batches(monkeypatch) as seen:
        figures = train_sft(sft_config(tiny_model, tmp_path / "run", data=data, order=order, epochs=2))
    assert figures["steps"] == 10  # 2 x 20 examples, 4 a step
    rows = [ids for batch in seen for ids in batch]
    if order == "length":
        keys = [float(len(ids)) for ids in rows]
    elif order == "loss":
        keys = [loss_by_hand(ids, tiny_model) for ids in rows]
    else:
        level = {row["prompt"]: row["level"] for row in ROWS}
        keys = [level[said(ids, tiny_model)] for ids in rows]
    assert len(keys) == 40
    assert keys[:20] == keys[20:] == pytest.approx(sorted(keys[:20]), abs=1e-5)
    assert len(set(keys)) > 10
    if order == "loss":
        (file,) = (tmp_path / ".losses").iterdir()
        assert sorted(json.loads(file.read_text())) == pytest.approx(sorted(keys[:20]), abs=1e-5)
        monkeypatch.setattr(sft_losses, "losses", None)  # what is kept is not computed again
        train_sft(sft_config(tiny_model, tmp_path / "again", data=data, order=order, max_steps=1))


@functools.cache
def loaded(model: Path) -> tuple[Any, Any]:
    return load_policy(str(model)), load_tokenizer(str(model))


def loss_by_hand(ids: list[int], model: Path) -> float:
    policy, tokenizer = loaded(model)
    (answer,) = (
        i for i, token in enumerate(ids) if token == tokenizer.convert_tokens_to_ids("<|assistant|>")
    )
    with torch.no_grad():
        logprobs = policy(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -sum(logprobs[i - 1, ids[i]].item() for i in range(answer + 1, len(ids))) / (len(ids) - answer - 1)


STAGES: dict[str, Any] = {"stages": ["first", ["second", "third"]], "order": "length"}


def staged(folder: Path) -> dict[str, str]:
    return {
        name: write(
            folder / f"{name}.jsonl", [{**row, "prompt": f"{name} {row['prompt']}"} for row in ROWS[:n]]
        )
        for name, n in (("first", 13), ("second", 9), ("third", 22))
    }


def test_stages_follow_each_other_and_resume_exactly(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"data": staged(tmp_path), "save_every": 3, **STAGES}
    with batches(monkeypatch) as seen:
        figures = train_sft(sft_config(tiny_model, tmp_path / "whole", **keys))
    assert figures["stages"] == [
        {"data": ["first"], "steps": 3},  # 12 examples
        {"data": ["second", "third"], "steps": 7},  # 8 and 20
    ]
    assert figures["steps"] == 10
    names = [said(ids, tiny_model).split()[0] for batch in seen for ids in batch]
    assert names[:12] == ["first"] * 12
    assert Counter(names[12:]) == {"second": 8, "third": 20}
    lengths = [len(ids) for batch in seen for ids in batch]
    assert lengths == sorted(lengths[:12]) + sorted(lengths[12:])

    config = sft_config(tiny_model, tmp_path / "broken", **keys)
    with batches(monkeypatch) as before, pytest.raises(KeyboardInterrupt), interrupted_at(5):
        train_sft(config)
    with batches(monkeypatch) as after:
        again = train_sft(config, resume=True)
    assert before == seen[:10]
    assert after == seen[6:]  # from the checkpoint at step 3, two microbatches a step
    assert again["held_out_loss"] == figures["held_out_loss"]
    one, two = (
        load_file(tmp_path / run / "model" / "adapter_model.safetensors") for run in ("whole", "broken")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_stages_in_random_order_are_shuffled_within(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = ["third", "first", "second"]
    config = sft_config(tiny_model, tmp_path / "run", data=staged(tmp_path), stages=stages, epochs=2)
    assert plan(config)["stages"] == ("third for 10 steps, then first for 6 steps, then second for 4 steps")
    with batches(monkeypatch) as seen:
        train_sft(config)
    said_in_order = [said(ids, tiny_model) for batch in seen for ids in batch]
    assert {one.split()[0] for one in said_in_order[:40]} == {"third"}
    assert {one.split()[0] for one in said_in_order[64:]} == {"second"}
    assert sorted(said_in_order[:20]) == sorted(said_in_order[20:40])
    assert said_in_order[:20] != said_in_order[20:40]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["data=a", "order=size"], "order must be random, length, loss or column:NAME, not 'size'"),
        (["data=a", "order='column:'"], "order must be"),
        (["data=a", "stages=[a]"], "give data={name: path"),
        (["data={a: a, b: b}", "stages=[a]"], "'b' is in one of them only"),
        (["data={a: a, b: b}", "stages=[a, [b, c]]"], "'c' is in one of them only"),
        (["data={a: a, b: b}", "stages=[a, b, []]"], "at least one data set"),
        (["data={a: a, b: b}", "stages=[a, b]", "max_steps=3"], "drop weights and max_steps"),
    ],
)
def test_orders_that_make_no_sense(keys: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(SFTConfig, None, ["run=x", "model.path=y", *keys])
    if "order=size" in keys:
        with pytest.raises(ConfigError, match="equally hard"):
            load_config(SFTConfig, None, ["run=x", "scratch={}", "data=a", "order=loss", "max_length=64"])


@pytest.mark.parametrize(("value", "fault"), [(None, "is missing"), ("3", "is '3'"), (True, "is True")])
def test_a_column_without_a_number_is_named(
    value: object, fault: str, tiny_model: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "data.jsonl", [*ROWS[:2], {**ROWS[2], "level": value}, *ROWS[3:]])
    with pytest.raises(AlignmentError, match=rf"data.jsonl, row 3: .* number in `level`, which {fault}"):
        train_sft(sft_config(tiny_model, tmp_path / "run", data=data, order="column:level"))
