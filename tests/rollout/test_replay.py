"""Decoding with every tensor at its place in memory: on CUDA steps are recorded and replayed, elsewhere only run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
)

import rollout.replay
from rollout import Sampling, TransformersEngine
from rollout.cache import GrowingLayer, growing_cache
from rollout.replay import ReplayedStep, replays

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16], [30, 31, 32, 33]] * 8


SHAPE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,  # far from uniform, so that a wrong position or mask shows
}
ON_CUDA = SimpleNamespace(device=torch.device("cuda"))


@pytest.fixture(scope="module", params=[LlamaConfig, Qwen3MoeConfig])
def model(request) -> PreTrainedModel:
    torch.manual_seed(0)
    config = request.param(**SHAPE)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_steps_in_place_say_what_a_growing_cache_does(model, monkeypatch, device, temperature):
    sampling, model = Sampling(max_new_tokens=30, temperature=temperature), model.to(device)
    rows_left = []
    keep = ReplayedStep.keep
    monkeypatch.setattr(
        ReplayedStep, "keep", lambda self, rows: (rows_left.append(len(rows)), keep(self, rows))
    )

    def answers(in_place: bool):
        monkeypatch.setattr(rollout.replay, "replays", lambda *_: in_place)
        return TransformersEngine(model, [1, 17, 23], 0, seed=1).generate(PROMPTS, sampling)

    expected, found = answers(False), answers(True)
    assert [c.token_ids for c in found] == [c.token_ids for c in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert rows_left or temperature == 0  # some rows left while others went on


def test_layers_that_forget_keys_are_not_replayed(model):
    cache = growing_cache(model.config)
    assert all(type(layer) is GrowingLayer for layer in cache.layers)
    assert not replays(ON_CUDA, cache)  # of a layer that holds nothing nobody knows what it would hold
    model(torch.tensor([[5, 6]], device=model.device), past_key_values=cache)
    assert replays(ON_CUDA, cache)
    assert not replays(SimpleNamespace(device=torch.device("cpu")), cache)
    assert not replays(SimpleNamespace(device=torch.device("cuda"), is_quantized=True), cache)
    windows = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4))
    cache = growing_cache(windows.config)
    windows(torch.tensor([[5, 6]]), past_key_values=cache)
    assert not replays(ON_CUDA, cache)
