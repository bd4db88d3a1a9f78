"""Norms and rotations in few passes against transformers' own; Liger's kernels are held on GPUs (`tests/gpu`)."""

import copy
import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from alignment.ppo import kernels
from alignment.ppo.build import build_actor_critic, place
from alignment.ppo.config import PPOConfig
from alignment.ppo.kernels import FAMILIES, RMSNorm, Rotation, fuse_layers, has_liger, turn
from tests.families import adapted, random_model

IDS = torch.arange(2, 26).view(3, 8)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(1, 6), st.booleans())
def test_gradients_of_the_norm_are_those_of_the_formula(outer, size, weight_learns):
    torch.manual_seed(0)
    x = torch.randn(*outer, size, requires_grad=True)
    weight = torch.randn(size, requires_grad=weight_learns)
    norm = LlamaRMSNorm(size, eps=0.1)
    norm.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight_learns)
    expected, found = norm(x), RMSNorm.apply(x, weight, 0.1)
    torch.testing.assert_close(found, expected)
    towards = torch.randn_like(expected)
    ours = torch.autograd.grad(found, [x, weight] if weight_learns else [x], towards)
    theirs = torch.autograd.grad(expected, [x, norm.weight] if weight_learns else [x], towards)
    torch.testing.assert_close(ours, theirs)


def test_the_norm_by_hand():
    x, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0])
    assert RMSNorm.apply(x, weight, 12.5)[0].tolist() == pytest.approx([0.6, 1.6])  # sqrt(25 / 2 + 12.5) = 5
    assert x.tolist() == [[3.0, 4.0]]


def test_the_norm_keeps_a_bfloat16_input():
    x = torch.randn(5, 64).bfloat16()
    before, norm = x.clone(), LlamaRMSNorm(64).bfloat16()
    found = RMSNorm.apply(x, norm.weight, norm.variance_epsilon)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, norm(x))
    assert torch.equal(x, before)


def test_a_quarter_turn_by_hand():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])  # two pairs: (1, 3) and (2, 4)
    cos, sin = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert turn(x, cos, sin, 1).tolist() == [-3.0, 2.0, 1.0, 4.0]
    assert turn(turn(x, cos, sin, 1), cos, sin, -1).tolist() == x.tolist()


def test_the_gradient_of_a_turn():
    angle = torch.rand(3, 2, dtype=torch.float64) * 2 * math.pi
    cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Rotation.apply(x, cos, sin), (x,))


@pytest.mark.parametrize("learned", ["adapters", "everything"])
@pytest.mark.parametrize("family", FAMILIES)
def test_models_say_and_learn_what_they_did(family, learned, monkeypatch):
    plain = adapted(random_model(family)) if learned == "adapters" else random_model(family)
    fused = copy.deepcopy(plain)

    def logits_and_gradients(model):
        parameters = [p for p in model.parameters() if p.requires_grad]
        logits = model(IDS, use_cache=False).logits
        return logits.detach(), torch.autograd.grad((logits**2).mean(), parameters)

    expected = logits_and_gradients(plain)
    turned = []
    monkeypatch.setattr(kernels, "turn", lambda *arguments: turned.append(1) or turn(*arguments))
    fuse_layers([fused.get_base_model() if learned == "adapters" else fused])
    assert all("forward" in vars(m) for m in fused.modules() if type(m).__name__.endswith("RMSNorm"))
    found = logits_and_gradients(fused)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert len(turned) == 2 * 2 * 3, "queries and keys of three layers, there and back"
    assert all(torch.equal(a, b) for a, b in zip(logits_and_gradients(plain)[1], expected[1], strict=True))
    assert len(turned) == 12, "other models of the family are as they were"


def test_other_families_are_left_alone():
    model = random_model("gemma")  # its norms multiply by 1 + weight
    fuse_layers([model])
    assert not any("forward" in vars(m) for m in model.modules())


def test_the_models_of_a_run_are_fused(tiny_model):
    values = {"run": "unused", "policy": {"path": str(tiny_model)}, "reward": "unused", "prompts": "unused"}
    config = PPOConfig.model_validate(values)
    models, _ = build_actor_critic(config)
    place(models, config, torch.device("cpu"))
    assert "forward" in vars(models.language_model.model.norm)


def test_where_the_kernels_are_missing_it_says_what_to_install(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    assert not has_liger()
    assert "pip install 'align[gpu]'" in capfd.readouterr().err
