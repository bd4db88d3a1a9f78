"""The frozen head, the shared trunk and the layers that are run once: the same numbers for less work."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alignment.errors import AlignmentError
from alignment.ppo import logprobs as logprobs_module
from alignment.ppo.actor_critic import AdapterActorCritic
from alignment.ppo.build import build_actor_critic
from alignment.ppo.config import PPOConfig
from alignment.ppo.logprobs import chosen_logprobs
from alignment.ppo.sequences import join
from alignment.ppo.trunk import WHOLE, Shortcuts, same_states
from reward.upper_layers import lowest_layer

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
RESPONSES = [[20, 21, 1], [22, 1], [23, 24, 25, 26]]


@pytest.fixture
def batch():
    return join(PROMPTS, RESPONSES, pad_id=1)


def build(model, critic=None, **tuning):
    config = {
        "run": "unused",
        "policy": {"path": str(model), "dtype": "float32"},
        "reward": "unused",
        "prompts": "unused",
        "tuning": {"rank": 4, "alpha": 8} | tuning,
        "critic": critic or {"trunk": "policy"},
    }
    return build_actor_critic(PPOConfig.model_validate(config))


def perturb(models, scale=0.1):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*models.policy_parameters(), *models.critic_parameters()):
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    chunk=st.integers(1, 100),
    wide=st.integers(1, 60),
    temperature=st.floats(0.3, 2.0),
    seed=st.integers(0, 99),
    bonus=st.booleans(),
)
def test_a_frozen_head_gives_what_all_logits_would(rows, chunk, wide, temperature, seed, bonus):
    torch.manual_seed(seed)
    head = nn.Linear(6, 17, bias=False)
    targets, upstream = torch.randint(0, 17, (rows,)), torch.randn(rows)
    states = torch.randn(rows, 6, requires_grad=True)
    # a head that is trained keeps its logits
    full, expected_entropy = chosen_logprobs(head, states, targets, temperature, entropy_gradient=bonus)
    total = (full * upstream).sum() + (0.3 * expected_entropy.sum() if bonus else 0.0)
    (expected,) = torch.autograd.grad(total, states)
    head.requires_grad_(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(logprobs_module.CHUNK, "cpu", chunk)
        patch.setitem(logprobs_module.WIDE, "cpu", wide)
        patch.setattr(logprobs_module, "ROWS", 1)
        ours, entropy = chosen_logprobs(head, states, targets, temperature, entropy_gradient=bonus)
        total = (ours * upstream).sum() + (0.3 * entropy.sum() if bonus else 0.0)
        (gradient,) = torch.autograd.grad(total, states)
    assert torch.allclose(ours, full, atol=1e-5)
    assert torch.allclose(entropy, expected_entropy, atol=1e-5)
    assert torch.allclose(gradient, expected, atol=1e-5)
    assert entropy.requires_grad is bonus


def test_a_head_in_bfloat16_gives_what_it_does_in_float32_but_for_rounding():
    torch.manual_seed(0)
    head = nn.Linear(32, 700, bias=False).requires_grad_(False)
    states, targets = torch.randn(300, 32), torch.randint(0, 700, (300,))
    seen = {}
    for dtype in (torch.float32, torch.bfloat16):
        inputs = states.to(dtype, copy=True).requires_grad_()
        chosen, entropy = chosen_logprobs(head.to(dtype), inputs, targets, 0.7, entropy_gradient=True)
        (chosen + entropy).sum().backward()
        seen[dtype] = chosen, entropy, inputs.grad.float()
    for one, other in zip(*seen.values(), strict=True):
        torch.testing.assert_close(one, other, atol=0.03, rtol=0.02)


def test_a_frozen_head_by_hand():
    head = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0], [1.0]]))
    head.requires_grad_(False)
    states = torch.tensor([[0.0]], requires_grad=True)
    chosen, entropy = chosen_logprobs(head, states, torch.tensor([1]), temperature=0.5)
    assert chosen.item() == pytest.approx(-0.6931, abs=1e-4)  # ln 1/2
    assert entropy.item() == pytest.approx(0.6931, abs=1e-4)
    chosen.sum().backward()
    assert states.grad.item() == pytest.approx(1.0)  # (W[y] - mean W) / T = (1 - 1/2) / 0.5


def test_without_gradients_every_head_is_read_alike():
    """Else a policy would differ from itself by rounding, and its KL to itself would not be 0."""
    torch.manual_seed(0)
    head, states, targets = nn.Linear(64, 500, bias=False), torch.randn(40, 64), torch.randint(0, 500, (40,))
    with torch.no_grad():
        free = chosen_logprobs(head, states, targets, 1.0)
        frozen = chosen_logprobs(head.requires_grad_(False), states, targets, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(free, frozen, strict=True))


@pytest.mark.parametrize("trunk", ["policy", "own"])
def test_layers_below_the_adapters_are_run_once_and_change_nothing(tiny_model, batch, trunk):
    models, _ = build(tiny_model, {"trunk": trunk, "init": "zero"}, layers=1)
    assert models.shortcuts == Shortcuts(packed=True, first_layer=1)  # of two
    perturb(models)
    prepared = models.prepare(batch)
    assert prepared.states.shape == (3, 8, 32)
    seen = {}
    for name, rows in (("whole", batch), ("split", prepared)):
        logprobs, entropy, values = models.policy_and_values(rows, 0.7)
        (logprobs.sum() + values.sum()).backward()
        trained = [*models.policy_parameters(), *models.value_head.parameters()]
        gradients = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
        for p in trained:
            p.grad = None
        seen[name] = (logprobs, entropy, values, models.reference_logprobs(rows, 0.7), gradients)
    for whole, split in zip(seen["whole"], seen["split"], strict=True):
        assert torch.allclose(whole, split, atol=1e-6)
    assert seen["whole"][-1].abs().max() > 1e-3


def test_a_cut_batch_keeps_its_own_states(tiny_model, batch):
    models, _ = build(tiny_model, layers=1)
    perturb(models)
    whole, _ = models.policy_logprobs(batch, 1.0)
    some, _ = models.policy_logprobs(models.prepare(batch).select(torch.tensor([1])), 1.0)
    assert torch.allclose(some[0], whole[1, :2], atol=1e-6)


def test_adapters_everywhere_leave_nothing_to_run_once(tiny_model, batch):
    models, _ = build(tiny_model)
    assert models.shortcuts == Shortcuts(packed=True)
    assert models.prepare(batch) is batch


def test_the_first_trained_layer_by_name():
    assert lowest_layer(["m.layers.3.mlp.up.lora_A", "m.layers.2.q.lora_B"]) == 2
    assert lowest_layer(["m.layers.3.mlp.up.lora_A", "m.embed_tokens.lora_A"]) == 0


def test_a_model_that_scales_its_embeddings_is_not_split(tiny_model):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    split = Shortcuts(first_layer=1)
    assert same_states(model, WHOLE, split)
    forward = model.model.forward

    def scaling(inputs_embeds=None, **more):  # as some families do inside their forward
        return forward(inputs_embeds=None if inputs_embeds is None else inputs_embeds * 2, **more)

    model.model.forward = scaling
    assert not same_states(model, WHOLE, split)


def test_more_layers_than_there_are_is_said(tiny_model):
    with pytest.raises(AlignmentError, match=r"tuning.layers=5 does not fit this model of 2 layers"):
        build(tiny_model, layers=5)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_shared_trunk_learns_from_both_losses_in_one_forward(tiny_model, batch, method):
    models, line = build(tiny_model, {"trunk": "policy"}, method=method)
    assert "value head on the policy's trunk" in line
    assert models.shares_trunk
    assert {id(p) for p in models.critic_parameters()} == {id(p) for p in models.value_head.parameters()}
    perturb(models, 0.02)
    alone, entropy_alone = models.policy_logprobs(batch, 1.0)
    logprobs, entropy, values = models.policy_and_values(batch, 1.0)
    assert torch.allclose(logprobs, alone, atol=1e-6)
    assert torch.allclose(entropy, entropy_alone, atol=1e-6)
    assert torch.allclose(values, models.values(batch), atol=1e-6)
    values.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in models.policy_parameters())
    for p in models.policy_parameters():
        p.grad = None
    models.values(batch).sum().backward()  # alone, as while the critic warms up, the head only
    assert all(p.grad is None for p in models.policy_parameters())


def test_full_tuning_keeps_a_critic_of_its_own_unless_told(tiny_model):
    base = {
        "run": "r",
        "policy": {"path": str(tiny_model), "dtype": "float32"},
        "reward": "x",
        "prompts": "x",
    }
    assert PPOConfig.model_validate(base | {"tuning": {"method": "full"}}).critic.trunk == "own"
    told = base | {"tuning": {"method": "full"}, "critic": {"trunk": "policy"}}
    assert PPOConfig.model_validate(told).critic.trunk == "policy"
    assert PPOConfig.model_validate(base).critic.trunk == "policy"


def test_adapters_sit_on_the_upper_layers_only(tiny_model):
    models, _ = build(tiny_model, {"trunk": "own", "init": "zero"}, layers=1)
    assert isinstance(models, AdapterActorCritic)
    names = [name for name, p in models.model.named_parameters() if "lora_" in name]
    assert len(names) == 2 * 2 * 7  # A and B, policy and critic, seven matrices of a layer
    assert all(".layers.1." in name for name in names)
