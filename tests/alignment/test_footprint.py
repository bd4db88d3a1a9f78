"""The estimate against what the loaded model really holds."""

import pytest
import torch

from alignment.footprint import footprint
from alignment.models import load_policy
from alignment.rehearsal import Held
from alignment.tuning.apply import apply_tuning
from alignment.tuning.config import TuningConfig
from alignment.tuning.methods import METHODS
from tests.alignment.tuning_models import new_model


@pytest.mark.parametrize("method", ["lora", "full"])
def test_counts_are_those_of_the_loaded_model(tiny_model, method):
    tuning = TuningConfig(method=method, rank=4)
    model = load_policy(str(tiny_model))
    size = footprint(str(tiny_model), "float32", tuning, rows=2, tokens=10)
    assert size.parameters == model.num_parameters()
    tuned = apply_tuning(model, tuning, "CAUSAL_LM")
    assert size.weight_bytes == 4 * sum(p.numel() for p in tuned.parameters())
    assert size.trainable == sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    assert size.training_bytes == 12 * size.trainable


def test_four_bits_are_smaller(tiny_model):
    whole, packed = (
        footprint(str(tiny_model), "float32", TuningConfig(method=method), rows=1, tokens=8)
        for method in ("lora", "qlora")
    )
    assert packed.weight_bytes < whole.weight_bytes
    assert packed.trainable == whole.trainable


def test_checkpointed_layers_keep_less(tiny_model):
    whole, less = (
        footprint(
            str(tiny_model), "float32", TuningConfig(), rows=2, tokens=10, checkpointed=on
        ).activation_bytes
        for on in (False, True)
    )
    assert 0 < less < whole


def test_rehearsed_bytes_are_those_that_autograd_keeps():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).to("meta")
    with torch.device("meta"), Held() as held:
        held.ignore(model)
        x = torch.zeros(3, 4)
        y = model(x)
    assert held.most == 4 * 3 * (
        4 + 8 + 8
    )  # as the ReLU runs; what enters it is let go of, its result will do
    assert held.now == 4 * 3 * (4 + 8 + 2)
    del x, y
    assert held.now == 0


def test_half_the_bits_are_about_half_the_activations(tiny_model):
    full, half = (
        footprint(str(tiny_model), dtype, TuningConfig(), rows=4, tokens=64).activation_bytes
        for dtype in ("float32", "bfloat16")
    )
    assert 0.4 < half / full < 0.8


@pytest.mark.parametrize("method", [m for m in METHODS if m != "moe"])
def test_every_method_has_a_footprint(tiny_model, method):
    size = footprint(str(tiny_model), "float32", TuningConfig(method=method), rows=2, tokens=10)
    assert 0 < size.trainable <= size.parameters
    assert size.activation_bytes > 0


def test_a_mixture_of_experts_has_a_footprint(tmp_path):
    new_model("mixtral").config.save_pretrained(tmp_path)
    size = footprint(str(tmp_path), "float32", TuningConfig(method="moe"), rows=2, tokens=10)
    assert size.activation_bytes > 0
