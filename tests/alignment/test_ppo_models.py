"""One base, several roles: each role must be exactly what a model of its own would be."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from alignment.errors import AlignmentError
from alignment.models import load_policy
from alignment.ppo.actor_critic import CRITIC, AdapterActorCritic, FullActorCritic, trunk
from alignment.ppo.build import build_actor_critic
from alignment.ppo.config import PPOConfig
from alignment.ppo.sequences import join
from reward.card import RewardCard

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
RESPONSES = [[20, 21, 1], [22, 1], [23, 24, 25, 26]]


def config_for(model, reward="unused", **changes):
    values = {
        "run": "unused",
        "policy": {"path": str(model), "dtype": "float32"},
        "reward": str(reward),
        "prompts": "unused",
        "critic": {"trunk": "own", "init": "zero"},
        "tuning": {"rank": 4, "alpha": 8},
    }
    return PPOConfig.model_validate(values | changes)


def perturb(models, scale=0.1):
    """Move the adapters away from zero, so that policy, critic and base differ."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*models.policy_parameters(), *models.critic_parameters()):
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def batch():
    return join(PROMPTS, RESPONSES, pad_id=1)  # pad = eos = 1


def by_hand(model, prompt, response, temperature):
    """Log-probabilities of one response in a forward of its own, without any padding."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float() / temperature, -1)[range(len(response)), response]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tuning", [{"rank": 4, "alpha": 8}, {"method": "full"}])
def test_padded_logprobs_equal_unpadded_ones(tiny_model, batch, tuning, temperature):
    models, _ = build_actor_critic(config_for(tiny_model, tuning=tuning))
    perturb(models, 0.02)
    logprobs, entropy = models.policy_logprobs(batch, temperature)
    policy = models.policy()
    for row, prompt, response in zip(logprobs, PROMPTS, RESPONSES, strict=True):
        expected = by_hand(policy, prompt, response, temperature)
        assert torch.allclose(row[: len(response)], expected, atol=1e-5)
        assert not row[len(response) :].any()
    assert (entropy[batch.response_mask] > 0).all()
    assert not entropy.requires_grad


def test_adapter_off_reference_equals_a_fresh_base(tiny_model, batch):
    models, line = build_actor_critic(config_for(tiny_model))
    assert "base with adapters off" in line
    perturb(models)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    reference = models.reference_logprobs(batch, 1.0)
    policy, _ = models.policy_logprobs(batch, 1.0)
    for row, moved, prompt, response in zip(reference, policy, PROMPTS, RESPONSES, strict=True):
        assert torch.allclose(row[: len(response)], by_hand(base, prompt, response, 1.0), atol=1e-6)
        assert not torch.allclose(row, moved, atol=1e-3)


def test_a_policy_that_starts_from_an_adapter_has_that_adapter_as_reference(tiny_model, batch, tmp_path):
    first, _ = build_actor_critic(config_for(tiny_model))
    perturb(first)
    first.save_policy(tmp_path / "sft")
    started = first.policy_logprobs(batch, 1.0)[0].detach()
    models, line = build_actor_critic(config_for(tmp_path / "sft"))
    assert "copy of the starting adapter" in line
    assert torch.allclose(models.policy_logprobs(batch, 1.0)[0], started, atol=1e-6)
    perturb(models)
    assert torch.allclose(models.reference_logprobs(batch, 1.0), started, atol=1e-6)
    assert not torch.allclose(models.policy_logprobs(batch, 1.0)[0], started, atol=1e-3)


def test_a_four_bit_base_is_shared_too_and_its_gradients_are_right(tiny_model, batch):
    models, line = build_actor_critic(
        config_for(tiny_model, tuning={"method": "qlora", "rank": 4, "alpha": 8})
    )
    assert "one base in memory" in line
    assert any(type(p).__name__ == "Params4bit" for p in models.parameters())
    before = models.reference_logprobs(batch, 1.0)
    perturb(models, 0.02)
    assert torch.equal(models.reference_logprobs(batch, 1.0), before)
    # a step along the gradient raises what it should raise: repacked 4-bit weights would give another gradient
    loss = models.policy_logprobs(batch, 1.0)[0].sum()
    loss.backward()
    gradient = [p.grad for p in models.policy_parameters()]
    size = sum(float((g**2).sum()) for g in gradient)
    with torch.no_grad():
        for parameter, g in zip(models.policy_parameters(), gradient, strict=True):
            parameter.add_(0.01 / size**0.5 * g)
    rise = (models.policy_logprobs(batch, 1.0)[0].sum() - loss).item()
    assert rise == pytest.approx(0.01 * size**0.5, rel=0.25)


def test_policy_and_critic_gradients_stay_apart(tiny_model, batch):
    models, _ = build_actor_critic(config_for(tiny_model))
    perturb(models)
    models.policy_logprobs(batch, 1.0)[0].sum().backward()
    assert all(p.grad is not None for p in models.policy_parameters())
    assert all(p.grad is None for p in models.critic_parameters())
    before = [p.grad.clone() for p in models.policy_parameters()]
    models.values(batch).sum().backward()
    assert all(p.grad is not None for p in models.critic_parameters())
    assert all(torch.equal(a, p.grad) for a, p in zip(before, models.policy_parameters(), strict=True))
    trained = {id(p) for p in (*models.policy_parameters(), *models.critic_parameters())}
    assert all(p.grad is None for p in models.parameters() if id(p) not in trained)


def test_full_tuning_keeps_its_reference(tiny_model, batch):
    models, _ = build_actor_critic(config_for(tiny_model, tuning={"method": "full"}))
    assert isinstance(models, FullActorCritic)
    before = models.reference_logprobs(batch, 1.0)
    # the frozen head is computed another way than the trained one, so up to rounding
    assert torch.allclose(before, models.policy_logprobs(batch, 1.0)[0].detach(), atol=1e-6)
    perturb(models, 0.02)
    assert torch.equal(before, models.reference_logprobs(batch, 1.0))


def card(mean, std):
    return RewardCard(
        score_mean=mean, score_std=std, scored=2, measured_on="test", train_pairs=1, max_length=64
    )


def reward_adapter_folder(tiny_model, folder):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    settings = LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear", modules_to_save=["score"])
    model = get_peft_model(base, settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    card(2.0, 4.0).write(folder)
    return model.eval()


def test_critic_starts_as_the_normalised_reward_adapter(tiny_model, tmp_path):
    reward = reward_adapter_folder(tiny_model, tmp_path / "reward")
    config = config_for(tiny_model, tmp_path / "reward", critic={"trunk": "own", "init": "reward"})
    models, line = build_actor_critic(config)
    assert "starts from the reward adapter" in line
    tokens = [5, 6, 20, 21]
    batch = join([tokens], [[9]], pad_id=0)  # its first value is read at the last of these tokens
    with torch.no_grad():
        score = reward(torch.tensor([tokens])).logits.item()
        value = models.values(batch)[0, 0].item()
    assert value == pytest.approx((score - 2.0) / 4.0, abs=1e-5)


def test_full_critic_starts_as_the_normalised_reward_model(tiny_model, tmp_path):
    torch.manual_seed(3)
    reward = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1).eval()
    reward.save_pretrained(tmp_path / "reward")
    card(-1.0, 2.0).write(tmp_path / "reward")
    config = config_for(tiny_model, tmp_path / "reward", critic={"init": "reward"}, tuning={"method": "full"})
    models, line = build_actor_critic(config)
    assert "starts from the reward model" in line
    batch = join([[5, 6, 20, 21]], [[9]], pad_id=0)
    with torch.no_grad():
        score = reward(torch.tensor([[5, 6, 20, 21]])).logits.item()
        assert models.values(batch)[0, 0].item() == pytest.approx((score + 1.0) / 2.0, abs=1e-5)


def test_saved_policy_answers_like_the_trained_one(tiny_model, batch, tmp_path):
    models, _ = build_actor_critic(config_for(tiny_model))
    perturb(models)
    models.save_policy(tmp_path / "policy")
    again = load_policy(str(tmp_path / "policy"))
    logprobs, _ = models.policy_logprobs(batch, 1.0)
    for row, prompt, response in zip(logprobs, PROMPTS, RESPONSES, strict=True):
        assert torch.allclose(row[: len(response)], by_hand(again, prompt, response, 1.0), atol=1e-5)
    assert not any(CRITIC in p.name for p in (tmp_path / "policy").rglob("*"))


def test_no_dropout_survives(tiny_model, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.attention_dropout = 0.3
    model.save_pretrained(tmp_path / "dropping")
    models, _ = build_actor_critic(config_for(tmp_path / "dropping"))
    models.train()
    batch = join([[5, 6, 7]], [[8, 9]], pad_id=0)
    assert torch.equal(models.policy_logprobs(batch, 1.0)[0], models.policy_logprobs(batch, 1.0)[0])


def test_trained_state_round_trips_and_refuses_another_model(tiny_model):
    one, _ = build_actor_critic(config_for(tiny_model))
    two, _ = build_actor_critic(config_for(tiny_model, seed=5))
    perturb(one)
    two.load_trained_state(one.trained_state())
    assert isinstance(two, AdapterActorCritic)
    assert all(torch.equal(a, two.trained_state()[k]) for k, a in one.trained_state().items())
    with pytest.raises(ValueError, match="does not fit"):
        two.load_trained_state({"other": torch.zeros(1)})


def test_a_reward_model_is_no_policy(tiny_model, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1).save_pretrained(
        tmp_path / "rm"
    )
    with pytest.raises(AlignmentError, match="is a reward model"):
        build_actor_critic(config_for(tmp_path / "rm"))


def test_trunk_is_the_transformer_without_its_head(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert trunk(model) is model.model
