"""Linear layers laid out for decoding: the same answers, and every layer itself again afterwards."""

import pytest
import torch
from torch import nn

from alignment.ppo.low_rank import fuse_adapters
from rollout.few_rows import few_rows_at_a_time, linear_layers, packs, product
from tests.families import adapted, random_model

IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.1}  # logits are as large as 5


@torch.no_grad()
def logits(model):
    return model(IDS, use_cache=False).logits.float()


def forwards(model):
    """What each module of its own runs, where that is not its class's."""
    return {
        name: vars(module)["forward"] for name, module in model.named_modules() if "forward" in vars(module)
    }


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])  # qwen2's projections have biases
def test_inside_the_logits_are_the_adapters(family, fused, dtype):
    model = adapted(random_model(family)).to(dtype)
    if fused:
        fuse_adapters(model)
    expected, own = logits(model), forwards(model)
    weights = {name: (p, p.data_ptr()) for name, p in model.named_parameters()}
    with few_rows_at_a_time(model):
        assert len(forwards(model)) == 3 * 7 + 1  # every layer's, and the head
        torch.testing.assert_close(logits(model), expected, atol=ROUNDING[dtype], rtol=0.02)
    assert forwards(model) == own
    assert all(
        p is weights[name][0] and p.data_ptr() == weights[name][1] for name, p in model.named_parameters()
    )
    assert torch.equal(logits(model), expected)


def test_a_head_with_an_adapter_of_its_own():
    model = adapted(random_model("llama", tie_word_embeddings=True), target_modules=["lm_head", "q_proj"])
    expected = logits(model)
    with few_rows_at_a_time(model):
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)


def test_adapters_that_are_off_stay_off():
    model = adapted(random_model("llama"))
    with model.disable_adapter():
        base = logits(model)
        with few_rows_at_a_time(model):
            torch.testing.assert_close(logits(model), base, atol=1e-5, rtol=1e-5)


def test_what_is_copied():
    """Of a model without adapters the head alone: a large one would not fit twice."""
    plain = random_model("llama").bfloat16()
    assert [layer for layer, *_ in linear_layers(plain)] == [plain.get_output_embeddings()]
    upper = adapted(random_model("llama"), target_modules=r".*layers\.2\..*_proj").bfloat16()
    gains = packs(upper.get_output_embeddings().weight)
    assert len(list(linear_layers(upper))) == (3 * 7 + 1 if gains else 7 + 1)
    assert len(list(linear_layers(upper.float()))) == 7 + 1


@pytest.mark.parametrize("fused", [False, True])
def test_a_failure_leaves_every_layer_as_it_was(fused):
    model = adapted(random_model("llama"))
    if fused:
        fuse_adapters(model)
    own = forwards(model)
    with pytest.raises(ZeroDivisionError), few_rows_at_a_time(model):
        raise ZeroDivisionError
    assert forwards(model) == own
    model.get_base_model().model.layers[2].mlp.down_proj.scaling = {}
    with pytest.raises(KeyError), few_rows_at_a_time(model):
        pytest.fail("the last layer cannot be merged")
    assert forwards(model) == own


@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_weight_multiplies_as_the_plain_one(bias):
    layer = nn.Linear(48, 80, bias=bias).bfloat16()
    if not packs(layer.weight):
        pytest.skip("this processor has no bfloat16 products of its own")
    run = product(layer.weight.data, layer.bias)
    for shape in ((1, 1, 48), (7, 1, 48), (3, 40, 48), (48,)):
        x = torch.randn(shape).bfloat16()
        with torch.no_grad():
            torch.testing.assert_close(run(x), layer(x))
    assert not packs(layer.weight.float())
