"""The estimate against what the loaded model really holds."""

import pytest

from alignment.footprint import footprint
from alignment.models import load_policy
from alignment.tuning.apply import apply_tuning
from alignment.tuning.config import TuningConfig


@pytest.mark.parametrize("method", ["lora", "full"])
def test_counts_are_those_of_the_loaded_model(tiny_model, method):
    tuning = TuningConfig(method=method, rank=4)
    model = load_policy(str(tiny_model))
    size = footprint(str(tiny_model), "float32", tuning, rows=2, tokens=10)
    assert size.parameters == model.num_parameters()
    assert size.weight_bytes == 4 * model.num_parameters()
    tuned = apply_tuning(model, tuning, "CAUSAL_LM")
    assert size.trainable == sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    assert size.training_bytes == 12 * size.trainable


def test_four_bits_are_smaller(tiny_model):
    whole, packed = (
        footprint(str(tiny_model), "float32", TuningConfig(method=method), rows=1, tokens=8)
        for method in ("lora", "qlora")
    )
    assert packed.weight_bytes < whole.weight_bytes
    assert packed.trainable == whole.trainable


def test_checkpointed_layers_keep_what_enters_them(tiny_model):
    whole, less = (
        footprint(
            str(tiny_model), "float32", TuningConfig(), rows=2, tokens=10, checkpointed=on
        ).activation_bytes
        for on in (False, True)
    )
    # two layers of 32 numbers of 4 bytes: 2 * 17 of them a token, or 2 and the 17 of the layer that is run again
    assert whole - less == 2 * 10 * (34 - 19) * 4 * 32
