"""Bottleneck adapters and UniPELT, PEFT tuners of our own: where they sit, what they add, how they switch."""

from __future__ import annotations

import math

import pytest
import torch

from alignment.errors import AlignmentError
from alignment.tuning.apply import apply_tuning, peft_config
from alignment.tuning.bottleneck import BottleneckConfig, BottleneckLayer, Prefix
from alignment.tuning.config import TuningConfig
from tests.alignment.tuning_models import IDS, family_of, learn, new_model, outputs
from tests.families import random_model


@pytest.mark.parametrize(
    ("method", "part"),
    [
        ("houlsby", "self_attn.o_proj.bottleneck"),
        ("pfeiffer", "mlp.bottleneck"),
        ("unipelt", "q_proj.bottleneck"),
        ("unipelt", "mlp.bottleneck"),
        ("unipelt", "o_proj.bottleneck_layers.default.keys"),
    ],
)
def test_bottlenecks_sit_where_the_papers_put_them(method: str, part: str) -> None:
    model = apply_tuning(new_model("llama"), TuningConfig(method=method), "CAUSAL_LM")
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert any(part in name for name in trained)
    assert any("gate.weight" in name for name in trained) == (method == "unipelt")
    if method == "pfeiffer":
        assert not any("self_attn" in name for name in trained)


def test_a_prefix_attends_apart_from_the_text() -> None:
    """Two heads of size 1, two virtual tokens: 1 / sqrt(e) is 1, the gate is sigmoid(ln 3) = 3/4."""
    queries = BottleneckLayer(torch.nn.Linear(2, 2))
    prefix = Prefix(BottleneckConfig(width=2, head_size=1, gated=True), 2, queries)
    with torch.no_grad():
        prefix.gate.bias.fill_(math.log(3))
        prefix.keys.copy_(torch.tensor([[[0.0], [math.log(4)]], [[0.0], [math.log(2)]]]))
        prefix.values.copy_(torch.tensor([[[5.0], [10.0]], [[3.0], [0.0]]]))
    queries._given = torch.tensor([[1.0, -1.0]])
    said = prefix.enter(torch.tensor([[100.0, 200.0]]))
    # head 1 weighs its tokens 1:4, which gives 9; head 2 weighs them 1:1/2, which gives 2
    torch.testing.assert_close(said, torch.tensor([[100 + 0.75 * 9, 200 + 0.75 * 2]]))


@torch.no_grad()
def test_a_prefix_says_the_same_from_a_cache() -> None:
    model = apply_tuning(new_model("llama"), TuningConfig(method="unipelt"), "CAUSAL_LM").eval()
    before = outputs(model)
    for name, weight in model.named_parameters():
        if name.endswith("default.values"):
            torch.nn.init.normal_(weight)
    whole = outputs(model)
    assert (whole - before).abs().max() > 1e-3
    first = model(input_ids=IDS[:, :10], use_cache=True)
    rest = model(input_ids=IDS[:, 10:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole, atol=1e-5, rtol=0)


def test_an_attention_that_cannot_have_a_prefix_is_named() -> None:
    model = new_model("llama")
    model.model.layers[1].self_attn.o_proj = torch.nn.Linear(48, 32)
    with pytest.raises(AlignmentError, match=r"the queries of model\.layers\.1\.self_attn\.o_proj are not"):
        apply_tuning(model, TuningConfig(method="unipelt"), "CAUSAL_LM")


@pytest.mark.parametrize("method", ["houlsby", "unipelt", "moe"])
def test_two_adapters_on_one_base_switch_exactly(method: str) -> None:
    base = new_model(family_of(method))
    tuning = TuningConfig(method=method)
    model = apply_tuning(base, tuning, "CAUSAL_LM")
    model.add_adapter("second", peft_config(tuning, "CAUSAL_LM", base))
    first = outputs(model)
    learn(model, 3)
    learned = outputs(model)
    model.set_adapter("second")
    assert torch.equal(outputs(model), first)
    model.set_adapter("default")
    assert torch.equal(outputs(model), learned)


def test_a_model_without_the_named_blocks() -> None:
    with pytest.raises(AlignmentError, match="feed-forward blocks"):
        apply_tuning(random_model("gpt2"), TuningConfig(method="pfeiffer"), "CAUSAL_LM")
