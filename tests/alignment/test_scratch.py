"""A model from nothing: what is written is a standard chat model folder."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from alignment.models import load_policy, load_tokenizer, stop_token_ids
from alignment.scratch import END, PAD, ScratchConfig, new_model, train_tokenizer

SMALL = ScratchConfig(
    hidden_size=32, layers=2, heads=4, kv_heads=2, intermediate_size=48, vocab_size=300, max_length=64
)
TEXTS = ["The Heron is a cafe. Prices are low.", "The Otter is a bar. Prices are high."] * 5
TOKENIZER = train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scratch") / "model"
    new_model(SMALL, TEXTS, folder, seed=3)
    return folder


def test_the_folder_loads_as_a_chat_model(folder):
    tokenizer, model = load_tokenizer(str(folder)), load_policy(str(folder))
    assert (tokenizer.pad_token, tokenizer.eos_token) == (PAD, END)
    messages = [{"role": "user", "content": "Hi"}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert rendered == "<|user|>Hi<|end|><|assistant|>"
    assert stop_token_ids(model, tokenizer) == (tokenizer.eos_token_id,)
    assert model.config.vocab_size == len(tokenizer) <= 300
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert (folder / "model.safetensors").exists()


def test_special_tokens_are_one_token_and_stay_out_of_decoded_answers(folder):
    tokenizer = load_tokenizer(str(folder))
    ids = tokenizer(f"low.{END}")["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "low."


@given(st.text())
def test_any_text_survives_the_tokenizer(text):
    plain = text.replace("<|", "")
    assert TOKENIZER.decode(TOKENIZER(plain)["input_ids"]) == plain.encode("utf-8", "replace").decode()


def test_weights_follow_the_seed_and_leave_the_random_state_alone(folder, tmp_path):
    before = torch.get_rng_state()
    new_model(SMALL, TEXTS, tmp_path / "same", seed=3)
    new_model(SMALL, TEXTS, tmp_path / "other", seed=4)
    assert torch.equal(before, torch.get_rng_state())
    one, same, other = (
        load_policy(str(path)).model.embed_tokens.weight
        for path in (folder, tmp_path / "same", tmp_path / "other")
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("shape", [{"hidden_size": 100, "heads": 6}, {"heads": 6, "kv_heads": 4}])
def test_shapes_that_cannot_be(shape):
    with pytest.raises(ValidationError, match="heads must divide"):
        ScratchConfig(**shape)
