"""Pairs end to end in a line: what a model says of them is what it says of each answer by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alignment.dpo.head import label_logprobs
from alignment.dpo.line import IGNORED, as_line, by_answer, pairs_in_line
from alignment.models import load_policy

FLOAT = torch.empty(0)
ids = st.lists(st.integers(2, 50), min_size=1, max_size=6)
pairs = st.builds(lambda p, a, b: {"prompt_ids": p, "first_ids": a, "second_ids": b}, ids, ids, ids)


@given(st.lists(pairs, min_size=1, max_size=4))
def test_a_line_reads_back(rows: list[dict[str, list[int]]]) -> None:
    line = as_line(rows, 0, FLOAT)
    parts = line["part_lengths"].tolist()
    assert line["input_ids"].shape == line["targets"].shape == line["position_ids"].shape
    assert line["input_ids"].shape[1] == sum(map(sum, parts))  # no padding
    pieces = {
        k: list(line[k][0].split([n for part in parts for n in part]))
        for k in ("input_ids", "targets", "position_ids")
    }
    for row, part in zip(rows, parts, strict=True):
        before, first, second = ([pieces[k].pop(0).tolist() for k in pieces] for _ in range(3))
        assert before == [row["prompt_ids"][:-1], [IGNORED] * part[0], list(range(part[0]))]
        for (seen, targets, places), answer in zip(
            (first, second), (row["first_ids"], row["second_ids"]), strict=True
        ):
            assert targets == answer
            assert seen == [row["prompt_ids"][-1], *answer[:-1]]
            assert places == list(range(part[0], part[0] + len(answer)))
    known = line["targets"].float().clamp(min=0)
    sums = [[sum(row["first_ids"]), sum(row["second_ids"])] for row in rows]
    assert by_answer(known, parts).tolist() == sums


def test_the_count_is_rounded_up_for_bfloat16_on_a_cpu() -> None:
    rows = [{"prompt_ids": [5, 6], "first_ids": [7, 8], "second_ids": [9]}]
    line = as_line(rows, 0, FLOAT.bfloat16())
    assert line["input_ids"].shape == (1, 128)
    assert (line["targets"][0, 4:] == IGNORED).all()
    assert by_answer(torch.ones(1, 128), [(1, 2, 1)]).tolist() == [[2, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_do_not_see_each_other(tiny_model: Path, dtype: torch.dtype) -> None:
    model: Any = load_policy(str(tiny_model)).to(dtype)
    rows = [
        {"prompt_ids": [9, 8, 7], "first_ids": [20, 21, 22, 23], "second_ids": [30]},
        {"prompt_ids": [5], "first_ids": [40], "second_ids": [41, 42, 43]},
    ]
    line = as_line(rows, 0, torch.empty(0, dtype=dtype))
    parts = line["part_lengths"].tolist()
    with torch.no_grad(), pairs_in_line(model):
        states = model.model(
            input_ids=line["input_ids"], position_ids=line["position_ids"], parts=parts, use_cache=False
        ).last_hidden_state
    found = model.lm_head(states).float().log_softmax(-1)
    said = found.gather(-1, line["targets"].clamp(min=0)[..., None]).squeeze(-1) * (
        line["targets"] != IGNORED
    )
    for row, sums in zip(rows, by_answer(said, parts), strict=True):
        for answer, total in zip((row["first_ids"], row["second_ids"]), sums, strict=True):
            alone = torch.tensor([row["prompt_ids"] + answer])
            with torch.no_grad():
                logprobs = model(alone).logits[0, :-1].float().log_softmax(-1)
            expected = logprobs.gather(1, alone[0, 1:, None])[-len(answer) :].sum()
            assert total.item() == pytest.approx(
                expected.item(), rel=1e-5 if dtype is torch.float32 else 2e-2
            )


def test_a_window_that_cuts_is_refused(tiny_model: Path) -> None:
    model: Any = load_policy(str(tiny_model))
    line = as_line([{"prompt_ids": [9, 8, 7], "first_ids": [20, 21], "second_ids": [30]}], 0, FLOAT)
    query = torch.zeros(1, 2, 5, 4)
    from alignment.dpo.line import pair_attention

    parts = line["part_lengths"].tolist()
    layer = model.model.layers[0].self_attn
    layer.config.layer_types = ["sliding_attention"] * 2
    pair_attention(layer, query, query, query, None, parts=parts, sliding_window=4)
    with pytest.raises(TypeError, match="longer than the window of 3"):
        pair_attention(layer, query, query, query, None, parts=parts, sliding_window=3)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("trained", [True, False])
def test_the_head_in_parts_is_the_head(softcap: float | None, trained: bool) -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 3000, bias=False).requires_grad_(trained)
    states, targets = torch.randn(300, 8, requires_grad=True), torch.randint(0, 3000, (300,))
    logits = head(states)
    logits = torch.tanh(logits / softcap) * softcap if softcap else logits
    expected = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    found = label_logprobs(head, states, targets, softcap)
    assert torch.allclose(found, expected, atol=1e-5)
    wanted = [states, head.weight] if trained else [states]
    for ours, theirs in zip(
        torch.autograd.grad(found.pow(2).sum(), wanted),
        torch.autograd.grad(expected.pow(2).sum(), wanted),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)
