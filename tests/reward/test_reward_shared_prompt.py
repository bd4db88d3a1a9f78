"""A pair as one row gives the scores of its sides alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer, MistralConfig, T5Config

from reward.model import from_base
from reward.pairs import without_beginning
from reward.shared_prompt import (
    as_rows,
    common_prefix,
    pair_scores,
    parts_of,
    positions,
    row_length,
    score_head,
    shares_prompts,
    visible,
)

tokens = st.lists(st.integers(5, 8), min_size=1, max_size=12)


def test_a_row_by_hand() -> None:
    rows = as_rows([[1, 2, 3, 4], [1, 9]], [[1, 2, 5], [1, 8, 7]], pad=0)
    assert rows["input_ids"].tolist() == [[1, 2, 3, 4, 5], [1, 9, 8, 7, 0]]
    assert rows["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert rows["part_lengths"].tolist() == [[2, 2, 1], [1, 1, 2]]
    parts = parts_of(rows["part_lengths"], 5)
    assert parts.tolist() == [[0, 0, 1, 1, 2], [0, 1, 2, 2, 3]]
    assert positions(rows["part_lengths"], parts)[:, :4].tolist() == [[0, 1, 2, 3], [0, 1, 1, 2]]
    sees = visible(parts, torch.float32)[0, 0] == 0
    assert sees[4].tolist() == [True, True, False, False, True]  # not the chosen answer
    assert sees[2].tolist() == [True, True, True, False, False]


@given(tokens, tokens)
def test_rows_hold_both_sides(one: list[int], other: list[int]) -> None:
    prefix = common_prefix(one, other)
    assert one[:prefix] == other[:prefix]
    assert prefix < min(len(one), len(other))  # each side keeps the token that is scored
    row = as_rows([one], [other], pad=0)["input_ids"][0].tolist()
    assert len(row) == row_length(one, other)
    assert row[: len(one)] == one
    assert row[:prefix] + row[len(one) :] == other


@given(tokens, tokens, st.integers(1, 10))
def test_cutting_takes_from_the_prompt_only(one: list[int], other: list[int], cut: int) -> None:
    prefix = common_prefix(one, other)
    short = without_beginning(one, other, cut)
    if cut > prefix - 1:
        assert short == (one, other)
    else:
        assert [len(one) - len(short[0]), len(other) - len(short[1])] == [cut, cut]
        assert short[0][0] == one[0]
        assert short[0][prefix - cut :] == one[prefix:]
        assert short[1][prefix - cut :] == other[prefix:]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_scores_and_gradients_are_those_of_the_sides_alone(tiny_model: Path, attention: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = from_base(str(tiny_model), tokenizer, dtype=torch.float32)
    model.set_attn_implementation(attention)
    sides = [[5, 6, 7, 8, 9], [5, 20, 21], [5, 6, 7, 30, 31, 32, 33], [5, 22]]
    rows = as_rows(sides[:2], sides[2:], pad=tokenizer.pad_token_id)
    together = pair_scores(model, score_head(model), torch.float32, rows)
    alone = torch.cat([model(input_ids=torch.tensor([side])).logits for side in sides])
    assert torch.allclose(together, alone, atol=1e-6)
    weight = model.model.layers[0].self_attn.q_proj.weight
    gradients = [torch.autograd.grad(scores.square().sum(), weight)[0] for scores in (together, alone)]
    assert torch.allclose(*gradients, atol=1e-6)
    assert gradients[0].abs().max() > 1e-6


def test_models_that_cannot_are_known(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = from_base(str(tiny_model), tokenizer, dtype=torch.float32)
    assert shares_prompts(model, tokenizer.pad_token_id, 256)
    model.model.rotary_emb.register_forward_pre_hook(  # as if it did not care for positions
        lambda module, inputs, others: (
            inputs,
            others | {"position_ids": torch.zeros_like(others["position_ids"])},
        ),
        with_kwargs=True,
    )
    assert shares_prompts(model, tokenizer.pad_token_id, 256)  # consistently so: still the same function
    model.model.layers[0].self_attn.forward = lambda hidden_states, **_: (hidden_states.cumsum(1), None)
    assert not shares_prompts(
        model, tokenizer.pad_token_id, 256
    )  # states run on from one answer into the other


def test_a_window_shorter_than_a_pair_is_refused() -> None:
    config = MistralConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=64, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    assert shares_prompts(model, 0, 64)
    assert not shares_prompts(model, 0, 65)


def test_another_kind_of_model_is_refused_without_an_error() -> None:
    config = T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, num_labels=1)
    assert not shares_prompts(AutoModelForSequenceClassification.from_config(config), 0, 64)
