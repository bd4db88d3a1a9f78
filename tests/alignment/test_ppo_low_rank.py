"""A layer and its LoRA as one operation against PEFT's own; PEFT's folders and names are left as they are."""

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch import nn

from alignment.models import frozen_dtype, load_policy
from alignment.ppo.build import build_actor_critic
from alignment.ppo.config import PPOConfig
from alignment.ppo.low_rank import AdaptedLinear, adapted_forward, fuse_adapters
from tests.families import adapted, random_model

IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])


def fused_layers(model):
    return [m for m in model.modules() if getattr(m.forward, "func", None) is adapted_forward]


def logits_and_gradients(model):
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    logits = model(IDS, use_cache=False).logits
    found = torch.autograd.grad((logits**2).mean(), parameters.values(), allow_unused=True)
    return logits.detach(), dict(zip(parameters, found, strict=True))


def assert_alike(model, plain, tolerance=1e-5):
    (ours, own), (theirs, expected) = logits_and_gradients(model), logits_and_gradients(plain)
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    assert own.keys() == expected.keys() != set()
    for name, gradient in own.items():
        if expected[name] is not None:  # of an adapter that is not active
            torch.testing.assert_close(gradient, expected[name], atol=tolerance, rtol=1e-3)
        else:
            assert gradient is None
    assert any(g is not None and g.abs().max() > 1e-3 for g in own.values())


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
def test_the_gradient_is_that_of_the_formula(outer, inputs, outputs, rank, input_learns, has_bias):
    torch.manual_seed(0)
    x = torch.randn(*outer, inputs, dtype=torch.float64, requires_grad=input_learns)
    weight = torch.randn(outputs, inputs, dtype=torch.float64)
    bias = torch.randn(outputs, dtype=torch.float64) if has_bias else None
    a = torch.randn(rank, inputs, dtype=torch.float64, requires_grad=True)
    b = torch.randn(outputs, rank, dtype=torch.float64, requires_grad=True)

    def layer(x, a, b):
        return AdaptedLinear.apply(x, weight, bias, a, b, 1.7)

    expected = x @ weight.T + (0 if bias is None else bias) + 1.7 * x @ a.T @ b.T
    torch.testing.assert_close(layer(x, a, b), expected)
    assert torch.autograd.gradcheck(layer, (x, a, b))


def test_the_layer_by_hand():
    x, a, b = torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, -1.0]]), torch.tensor([[10.0], [20.0]])
    weight, bias = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([0.5, 0.0])
    found = AdaptedLinear.apply(x, weight, bias, a, b, 0.5)
    assert found.tolist() == [[2.5 - 5.0, 5.0 - 10.0]]  # x A^T = -1; half of it times B


def test_inputs_that_are_not_contiguous():
    x = torch.randn(5, 4, 3).transpose(0, 1)
    a, b = torch.randn(2, 3), torch.randn(6, 2)
    linear = nn.Linear(3, 6, bias=False)
    torch.testing.assert_close(
        AdaptedLinear.apply(x, linear.weight.detach(), None, a, b, 2.0),
        linear(x) + 2 * x @ a.T @ b.T,
        atol=1e-5,
        rtol=1e-5,
    )


def test_weights_that_learn_are_pefts():
    """The fused layer knows no gradient of W: a base that is tuned beside its adapters must still get one."""
    plain = adapted()
    model = copy.deepcopy(plain)
    fuse_adapters(model)
    for one in (plain, model):
        one.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight.requires_grad_(True)
    assert_alike(model, plain)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])  # qwen2's projections have biases
@pytest.mark.parametrize("use_rslora", [False, True])
def test_a_fused_model_is_pefts(family, use_rslora):
    plain = adapted(random_model(family), use_rslora=use_rslora)
    model = copy.deepcopy(plain)
    fuse_adapters(model)
    assert len(fused_layers(model)) == 3 * 7
    assert_alike(model, plain)


def test_a_fused_model_on_a_bfloat16_base_learns_in_float32():
    plain = adapted()
    model = copy.deepcopy(plain)
    for one in (plain, model):
        for name, parameter in one.named_parameters():
            parameter.data = parameter.data if "lora_" in name else parameter.data.bfloat16()
    fuse_adapters(model)
    logits, gradients = logits_and_gradients(model)
    theirs, expected = logits_and_gradients(plain)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits, theirs, atol=0.15, rtol=0.05)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(
            gradient, expected[name], atol=0.1 * float(expected[name].abs().max()), rtol=0.1
        )


def test_adapters_of_one_base_stay_apart():
    plain = adapted(names=("default", "critic", "reference"))
    model = copy.deepcopy(plain)
    fuse_adapters(model)
    seen = []
    for name in ("default", "critic", "reference", "default"):
        model.set_adapter(name)
        plain.set_adapter(name)
        assert_alike(model, plain)
        learning = {key for key, p in model.named_parameters() if p.requires_grad}
        assert learning
        assert all(f".{name}." in key for key in learning)
        seen.append(model(IDS).logits.detach())
    assert torch.equal(seen[0], seen[3])
    assert min(float((a - b).abs().max()) for a, b in pairwise(seen)) > 0.1
    base = random_model("llama")(IDS).logits
    with model.disable_adapter():
        assert torch.equal(model(IDS).logits, base), "off is the base itself"
    model.base_model.set_adapter(["default", "critic"])  # both at once: their sum
    plain.base_model.set_adapter(["default", "critic"])
    assert_alike(model, plain)


def test_names_do_not_change_and_plain_peft_reads_what_was_saved(tmp_path):
    model = adapted(names=("default", "critic"))
    names = list(model.state_dict())
    fuse_adapters(model)
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    again = PeftModel.from_pretrained(random_model("llama"), tmp_path).eval()
    assert not fused_layers(again)
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_adapters_of_another_kind_are_pefts_own(settings):
    plain = adapted(target_modules=["q_proj", "down_proj"], **settings)
    model = copy.deepcopy(plain)
    fuse_adapters(model)
    assert not fused_layers(model)
    assert_alike(model, plain, tolerance=0.0)


def test_other_layers_are_pefts_own():
    """Embeddings, and GPT-2's layers that hold their weight the other way round."""
    for family, modules in (("llama", ["embed_tokens", "q_proj"]), ("gpt2", ["c_attn"])):
        plain = adapted(random_model(family), target_modules=modules)
        model = copy.deepcopy(plain)
        fuse_adapters(model)
        assert len(fused_layers(model)) == (3 if family == "llama" else 0)
        assert_alike(model, plain)


def actor_critic(path, dtype, **tuning):
    config = {
        "run": "unused",
        "policy": {"path": str(path), "dtype": dtype},
        "reward": "unused",
        "prompts": "unused",
        "critic": {"trunk": "own", "init": "zero"},
        "tuning": tuning,
    }
    return build_actor_critic(PPOConfig.model_validate(config))[0]


def test_a_ppo_policy_is_fused_and_saved_as_ever(tiny_model, tmp_path):
    models = actor_critic(tiny_model, "float32", rank=4, alpha=8)
    assert len(fused_layers(models.model)) == 2 * 7
    with torch.no_grad():
        for parameter in models.policy_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    models.save_policy(tmp_path)
    again = load_policy(str(tmp_path), "float32")
    with torch.no_grad():
        torch.testing.assert_close(models.policy()(IDS).logits, again(IDS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("gpu", "cpu_has_bfloat16", "expected"),
    [(True, False, "bfloat16"), (False, True, "bfloat16"), (False, False, "auto"), (True, True, "bfloat16")],
)
def test_auto_is_bfloat16_where_the_device_computes_in_it(monkeypatch, gpu, cpu_has_bfloat16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": cpu_has_bfloat16})
    assert frozen_dtype("auto") == expected
    for told in ("float32", "bfloat16", "float16"):
        assert frozen_dtype(told) == told


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_a_frozen_base_is_narrow_and_what_learns_is_not(tiny_model, monkeypatch, able, method, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    models = actor_critic(tiny_model, dtype, method=method)
    narrow = dtype == "bfloat16" or (dtype == "auto" and able and method == "lora")
    base = torch.bfloat16 if narrow else torch.float32
    assert models.language_model.get_input_embeddings().weight.dtype == base
    if method == "lora":
        trained = [*models.policy_parameters(), *models.critic_parameters()]
        assert {p.dtype for p in trained} == {torch.float32}
