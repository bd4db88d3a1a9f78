"""Adapters folded into the weights for a while: the same answers, and every weight as it was afterwards."""

from itertools import pairwise

import pytest
import torch

from alignment.models import load_policy
from alignment.ppo.build import build_actor_critic
from alignment.ppo.config import PPOConfig
from alignment.ppo.low_rank import fuse_adapters
from alignment.ppo.sequences import join
from rollout import Sampling, TransformersEngine
from rollout.merging import adapters_merged, mergeable
from tests.families import adapted, random_model

IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])


@torch.no_grad()
def logits(model):
    return model(IDS, use_cache=False).logits


def snapshot(model):
    """Every parameter: the object, where it lies, whether it learns, and its bits."""
    return {
        name: (p, p.data_ptr(), p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()
    }


def assert_untouched(model, before):
    after = snapshot(model)
    assert after.keys() == before.keys()
    for name, (parameter, *rest, values) in before.items():
        assert after[name][0] is parameter
        assert list(after[name][1:3]) == rest
        assert torch.equal(after[name][3], values)
    assert not any(getattr(module, "merged", False) for module in model.modules())


def merged_layers(model):
    return [m for m in model.modules() if getattr(m, "merged", False)]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])  # qwen2's projections have biases
@pytest.mark.parametrize("use_rslora", [False, True])
def test_inside_the_logits_are_the_adapters(family, fused, use_rslora):
    model = adapted(random_model(family), use_rslora=use_rslora)
    if fused:
        fuse_adapters(model)
    expected, before = logits(model), snapshot(model)
    with model.disable_adapter():
        assert (logits(model) - expected).abs().max() > 0.1
    with adapters_merged(model):
        assert len(merged_layers(model)) == 3 * 7
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    assert_untouched(model, before)
    assert torch.equal(logits(model), expected)


def test_a_failure_inside_leaves_every_weight_as_it_was():
    model = adapted(random_model("llama"))
    before = snapshot(model)
    with pytest.raises(KeyError), adapters_merged(model):
        raise KeyError
    assert_untouched(model, before)


def test_a_failure_while_merging_leaves_every_weight_as_it_was():
    model = adapted(random_model("llama"))
    before = snapshot(model)
    last = [m for m in model.modules() if mergeable(m)][-1]
    last.scaling = {}
    with pytest.raises(KeyError), adapters_merged(model):
        pytest.fail("the last layer cannot be merged")
    assert_untouched(model, before)


def test_a_weight_that_two_layers_share_changes_in_one_only():
    model = adapted(random_model("llama", tie_word_embeddings=True), target_modules=["lm_head", "q_proj"])
    embeddings = model.get_input_embeddings().weight
    assert model.get_output_embeddings().base_layer.weight is embeddings
    expected, before = logits(model), snapshot(model)
    with adapters_merged(model):
        assert model.get_input_embeddings().weight is embeddings
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    assert_untouched(model, before)
    assert model.get_output_embeddings().base_layer.weight is embeddings


def test_the_adapters_in_use_are_merged():
    model = adapted(random_model("llama"), names=("default", "critic"))
    seen = []
    for active in ("default", "critic", ["default", "critic"]):
        model.base_model.set_adapter(active)
        seen.append(logits(model))
        with adapters_merged(model):
            torch.testing.assert_close(logits(model), seen[-1], atol=1e-5, rtol=1e-5)
    assert min(float((a - b).abs().max()) for a, b in pairwise(seen)) > 0.1


def test_in_bfloat16_the_sum_is_rounded_once():
    model = adapted(random_model("llama")).bfloat16()
    layer = next(m for m in model.modules() if mergeable(m))
    w, a, b = (x.detach() for x in (layer.base_layer.weight, *layer_pair(layer)))
    with adapters_merged(model):
        found = layer.base_layer.weight
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, (w.float() + 3.0 * b.float() @ a.float()).bfloat16())


def layer_pair(layer):
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def test_adapters_that_are_off_stay_off():
    model = adapted(random_model("llama"))
    with model.disable_adapter():
        base, before = logits(model), snapshot(model)
        with adapters_merged(model):
            assert not merged_layers(model)
            assert torch.equal(logits(model), base)
        assert_untouched(model, before)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"use_dora": True}),
        ("qwen2", {"lora_bias": True, "target_modules": ["q_proj"]}),
        ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
        ("llama", {"target_modules": ["embed_tokens"]}),
    ],
)
def test_adapters_of_another_kind_are_left_alone(family, settings):
    model = adapted(random_model(family), **settings)
    expected, before = logits(model), snapshot(model)
    with adapters_merged(model):
        assert not merged_layers(model)
        assert torch.equal(logits(model), expected)
    assert_untouched(model, before)


def test_four_bit_layers_are_left_alone(tiny_model):
    model = adapted(load_policy(str(tiny_model), four_bit=True))
    assert any(type(p).__name__ == "Params4bit" for p in model.parameters())
    expected = logits(model)
    with adapters_merged(model):
        assert not merged_layers(model)
        assert torch.equal(logits(model), expected)


def test_a_model_without_adapters_or_merged_already_is_left_alone():
    plain = random_model("llama")
    before = snapshot(plain)
    with adapters_merged(plain):
        assert_untouched(plain, before)
    model = adapted(random_model("llama"))
    model.merge_adapter()
    expected = logits(model)
    with adapters_merged(model):
        assert torch.equal(logits(model), expected)
    assert len(merged_layers(model)) == 3 * 7, "who merged it may go on"
    assert torch.equal(logits(model), expected)


def test_twice_is_once():
    model = adapted(random_model("llama"))
    before, expected = snapshot(model), logits(model)
    with adapters_merged(model):
        with adapters_merged(model):
            torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    assert_untouched(model, before)


@pytest.mark.parametrize("trunk", ["policy", "own"])
@pytest.mark.parametrize("layers", [None, 1])
def test_the_trainer_gives_the_engines_answers_the_same_logprobs(tiny_model, trunk, layers):
    config = {
        "run": "unused",
        "policy": {"path": str(tiny_model), "dtype": "float32"},
        "reward": "unused",
        "prompts": "unused",
        "critic": {"trunk": trunk, "init": "zero"},
        "tuning": {"rank": 4, "alpha": 8, "layers": layers},
    }
    models, _ = build_actor_critic(PPOConfig.model_validate(config))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in (*models.policy_parameters(), *models.critic_parameters()):
            parameter.add_(0.2 * torch.randn(parameter.shape))
    before = snapshot(models)
    prompts = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [14]] * 4
    engine = TransformersEngine(models.policy(), [1, 20, 30, 40, 50], 0, seed=1)
    answers = engine.generate(prompts, Sampling(max_new_tokens=24, temperature=0.7))
    assert_untouched(models, before)
    batch = join(prompts, [a.token_ids for a in answers], pad_id=1)
    with torch.no_grad():
        logprobs, _ = models.policy_logprobs(models.prepare(batch), 0.7)
        reference = models.reference_logprobs(models.prepare(batch), 0.7)
    for row, base, answer in zip(logprobs, reference, answers, strict=True):
        expected = torch.tensor(answer.logprobs)
        torch.testing.assert_close(row[: len(expected)], expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(base[: len(expected)], expected, atol=1e-3)
