"""The trainer: what a step does, that it learns, and that a resumed run is the run that was never broken."""

import json
import math
from pathlib import Path

import pytest
import torch

from alignment.checkpoints import load_checkpoint, save_checkpoint
from alignment.errors import AlignmentError
from alignment.models import load_tokenizer, stop_token_ids
from alignment.ppo.build import build_actor_critic
from alignment.ppo.config import PPOConfig
from alignment.ppo.experience import Rollouts
from alignment.ppo.trainer import PPOTrainer
from alignment.prompts import encode_prompts
from rollout.transformers_engine import TransformersEngine
from rollout.types import Completion

LOGGED = {
    *("score_mean", "score_std", "kl", "kl_k3", "kl_coef", "response_length", "truncated", "entropy"),
    *("explained_variance", "engine_gap_mean", "engine_gap_max", "ratio_mean", "ratio_max", "policy_clipped"),
    *("value_clipped", "update_kl", "policy_loss", "value_loss", "policy_grad_norm", "critic_grad_norm"),
}


class LikesLetters:
    """A rule: the share of the answer's characters that are lower-case letters."""

    def score(self, conversations):
        texts = [conversation[-1]["content"] for conversation in conversations]
        return [sum(c.islower() for c in text) / max(len(text), 1) for text in texts]


def make_trainer(model, scorer=None, **changes):
    values = {
        "run": "unused",
        "policy": {"path": str(model), "dtype": "float32"},
        "reward": "unused",
        "prompts": "unused",
        "critic": {"init": "zero", "learning_rate": 1e-2},
        "tuning": {"rank": 4, "alpha": 8},
        "sampling": {"max_new_tokens": 8},
        "iterations": 4,
        "episodes": 16,
        "epochs": 2,
        "minibatches": 2,
        "microbatch": 4,
        "learning_rate": 1e-2,
    }
    config = PPOConfig.model_validate(values | changes)
    tokenizer = load_tokenizer(str(model))
    models, _ = build_actor_critic(config)
    texts = ("hello", "a table for two", "is the cat in", "ok", "why not", "good day to you")
    messages = [[{"role": "user", "content": text}] for text in texts]
    prompts = encode_prompts(messages, tokenizer, room=100, rejects=Path("unused"))
    policy = models.policy()
    engine = TransformersEngine(
        policy,
        stop_token_ids(policy, tokenizer),
        tokenizer.pad_token_id,
        seed=config.seed,
        max_batch=16,
        value_head=models.value_head if config.asks_engine_for_values else None,
    )
    return PPOTrainer(config, models, engine, scorer or LikesLetters(), prompts, tokenizer)


def test_the_policy_learns_at_the_rates_of_its_tuning(tiny_model):
    tuning = {"method": "lora_plus", "rank": 4, "rate_decay": 0.5}
    trainer = make_trainer(tiny_model, tuning=tuning, learning_rate=1e-2)
    groups = {group["lr"]: group["params"] for group in trainer.policy_optimizer.param_groups}
    assert groups.keys() == {0.16, 0.08, 0.01, 0.005}  # B and A of the upper layer, and of the lower one
    named = {id(p): name for name, p in trainer.models.named_policy_parameters()}
    assert all("layers.1." in named[id(p)] and ".lora_B." in named[id(p)] for p in groups[0.16])
    assert sum(map(len, groups.values())) == len(trainer.models.policy_parameters())
    assert len(trainer.critic_optimizer.param_groups) == 1
    state = trainer.state_dict()
    again = make_trainer(tiny_model, tuning=tuning, learning_rate=1e-2)
    again.load_state_dict(state)
    assert [g["lr"] for g in again.policy_optimizer.param_groups] == [0.16, 0.08, 0.01, 0.005]


def gradients(trainer, experience):
    tokens = int(experience.sequences.response_lengths.sum())
    parameters = [*trainer.models.policy_parameters(), *trainer.models.critic_parameters()]
    for parameter in parameters:
        parameter.grad = None
    size = trainer.config.microbatch
    for rows in torch.arange(len(experience.sequences)).split(size):
        trainer.accumulate(experience.select(rows), tokens, moves_policy=True)
    return torch.cat([p.grad.flatten() for p in parameters])


def some_experience(trainer):
    """Experience of a policy that then moved, so that ratios are not 1 and some tokens are clipped."""
    prompts = trainer.sampler.prompts.take(16)
    rollouts = trainer.generate(prompts)
    with torch.no_grad():
        experience, _ = trainer.assess(rollouts, trainer.score(prompts, rollouts).mean(1))
        generator = torch.Generator().manual_seed(2)
        for parameter in (*trainer.models.policy_parameters(), *trainer.models.critic_parameters()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return experience


@pytest.mark.parametrize(
    ("place", "trunk", "layers"),
    [("reward", "own", None), ("loss", "own", None), ("reward", "policy", None), ("loss", "policy", 1)],
)
def test_gradients_do_not_depend_on_the_microbatch(tiny_model, place, trunk, layers):
    trainer = make_trainer(
        tiny_model,
        kl={"place": place, "coef": 0.1},
        critic={"trunk": trunk, "init": "zero"},
        tuning={"rank": 4, "alpha": 8, "layers": layers},
    )
    experience = some_experience(trainer)
    assert experience.sequences.response_lengths.unique().numel() > 1  # else a mean of means would pass
    whole = gradients(trainer, experience)
    for size in (1, 2, 8):
        trainer.config.microbatch = size
        assert torch.allclose(gradients(trainer, experience), whole, rtol=1e-4, atol=1e-7)
    assert whole.abs().max() > 1e-4


def test_a_step_logs_what_an_engineer_watches(tiny_model):
    metrics = make_trainer(tiny_model).step()
    assert metrics.keys() >= LOGGED
    assert all(math.isfinite(v) for v in metrics.values())
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-5)  # the first rollouts come from the reference itself
    assert metrics["engine_gap_max"] < 1e-4
    assert metrics["iteration"] == 1


def test_the_policy_learns_what_is_rewarded(tiny_model):
    trainer = make_trainer(
        tiny_model, tuning={"method": "full"}, learning_rate=3e-3, episodes=32, epochs=3, kl={"coef": 0.0}
    )
    scores = [trainer.step()["score_mean"] for _ in range(18)]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.12


@pytest.mark.parametrize("estimator", ["rloo", "grpo", "reinforce++"])
def test_critic_free_estimators_learn_too(tiny_model, estimator):
    trainer = make_trainer(
        tiny_model,
        tuning={"method": "full"},
        advantages=estimator,
        group=4,
        learning_rate=3e-3,
        episodes=32,
        epochs=3,
        kl={"coef": 0.0},
    )
    assert trainer.models.shares_trunk  # there is no critic to have a trunk of its own
    rows = [trainer.step() for _ in range(16)]
    assert not {"value_loss", "explained_variance", "critic_grad_norm"} & rows[0].keys()
    scores = [row["score_mean"] for row in rows]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.1


def test_a_prompt_is_answered_as_often_as_its_group(tiny_model):
    trainer = make_trainer(tiny_model, advantages="rloo", group=4)
    seen = []
    sample = trainer.sampler.sample
    trainer.sampler.sample = lambda prompts: seen.extend(p.row for p in prompts) or sample(prompts)
    trainer.step()
    assert len(seen) == 16
    assert all(len(set(seen[i : i + 4])) == 1 for i in range(0, 16, 4))
    assert len(set(seen)) == 4


def test_an_entropy_bonus_keeps_the_policy_open(tiny_model):
    changes = {"tuning": {"method": "full"}, "learning_rate": 3e-3, "kl": {"coef": 0.0}, "epochs": 3}
    plain = make_trainer(tiny_model, **changes)
    open_ = make_trainer(tiny_model, entropy_coef=0.5, **changes)
    for _ in range(8):
        without, with_bonus = plain.step(), open_.step()
    assert with_bonus["entropy"] > without["entropy"]


def test_epochs_end_once_the_policy_has_moved_too_far(tiny_model):
    changes = {"epochs": 6, "learning_rate": 3e-2}
    assert make_trainer(tiny_model, **changes).step()["epochs"] == 6
    stopped = make_trainer(tiny_model, stop_kl=1e-3, **changes).step()
    assert 1 <= stopped["epochs"] < 6
    assert stopped["update_kl"] > 1e-3


def test_kl_holds_the_policy_back(tiny_model):
    free = make_trainer(tiny_model, kl={"coef": 0.0})
    held = make_trainer(tiny_model, kl={"coef": 1.0})
    for _ in range(6):
        loose, tight = free.step(), held.step()
    assert tight["kl_k3"] < loose["kl_k3"]


def test_critic_warmup_leaves_the_policy_alone(tiny_model):
    trainer = make_trainer(tiny_model, critic={"init": "zero", "learning_rate": 1e-2, "warmup": 1})
    before = [p.clone() for p in trainer.models.policy_parameters()]
    critic = [p.clone() for p in trainer.models.critic_parameters()]
    first = trainer.step()
    assert "policy_loss" not in first
    assert first["value_loss"] > 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.models.policy_parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(critic, trainer.models.critic_parameters(), strict=True))
    trainer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.models.policy_parameters(), strict=True))


def test_gradients_are_really_clipped(tiny_model):
    trainer = make_trainer(tiny_model, max_grad_norm=1e-3)
    parameters = trainer.models.policy_parameters()
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    seen = []
    trainer.policy_optimizer.step = lambda: seen.append(
        torch.cat([p.grad.flatten() for p in parameters]).norm()
    )
    trainer.descend(trainer.policy_optimizer)
    assert seen[0] == pytest.approx(1e-3, rel=1e-3)


def test_adam_is_set_as_the_reference_implementations_have_it(tiny_model):
    trainer = make_trainer(tiny_model)
    for optimizer, rate in ((trainer.policy_optimizer, 1e-2), (trainer.critic_optimizer, 1e-2)):
        assert optimizer.defaults["eps"] == 1e-5
        assert optimizer.defaults["lr"] == rate


def test_a_zero_critic_starts_at_the_mean_score(tiny_model):
    trainer = make_trainer(tiny_model)
    prompts = trainer.sampler.prompts.take(16)
    rollouts = trainer.generate(prompts)
    scores = trainer.score(prompts, rollouts).mean(1)
    with torch.no_grad():
        experience, _ = trainer.assess(rollouts, scores)
    mask = experience.sequences.response_mask
    expected = (scores - rollouts.truncated.float()).mean()
    assert torch.allclose(experience.old_values[mask], expected, atol=1e-6)


def test_truncated_answers_pay(tiny_model):
    trainer = make_trainer(tiny_model, truncation={"score": -5.0}, kl={"coef": 0.0}, gamma=1.0, lam=1.0)
    completions = [Completion((9, 8), (-1.0, -1.0), reason, 0) for reason in ("stop", "length")]
    rollouts = Rollouts.from_completions([[4], [4]], completions, ["", ""], pad_id=0)
    trainer.config.whiten_advantages = False
    with torch.no_grad():
        experience, seen = trainer.assess(rollouts, torch.tensor([1.0, 1.0]))
    assert experience.returns[:, 0].tolist() == pytest.approx([1.0, -5.0])
    assert seen["truncated"] == 0.5


def some_returns(tiny_model, **changes):
    """Returns (b, r) and their mask of two answers: [9] stops and scores 1, [9, 8] is cut off and scores 3."""
    settings = {"kl": {"coef": 0.0}, "whiten_advantages": False, "lam": 1.0, "truncation": {"penalty": 0.0}}
    trainer = make_trainer(tiny_model, **settings | changes)
    completions = [Completion((9,), (-1.0,), "stop", 0), Completion((9, 8), (-1.0, -1.0), "length", 0)]
    rollouts = Rollouts.from_completions([[4], [4]], completions, ["", ""], pad_id=0)
    with torch.no_grad():
        experience, _ = trainer.assess(rollouts, torch.tensor([1.0, 3.0]))
    return experience.returns


def test_rewards_are_whitened_if_told_to(tiny_model):
    assert some_returns(tiny_model).tolist() == [[1.0, 0.0], [3.0, 3.0]]
    # rewards 1 | 0, 3: mean 4/3, deviations -1/3 | -4/3, 5/3, variance 42/27
    mean, spread = 4 / 3, (42 / 27) ** 0.5
    one, two, three = ((x - mean) / spread + mean for x in (1, 0, 3))
    whitened = some_returns(tiny_model, whiten_rewards=True)
    assert torch.allclose(whitened, torch.tensor([[one, 0.0], [two + three, three]]))


def test_length_is_charged_if_told_to(tiny_model):
    charged = some_returns(tiny_model, length_penalty=0.5)
    assert charged.tolist() == [[0.5, 0.0], [2.0, 2.0]]
    # limit 2, buffer 2: half the penalty after one token, all of it after two
    soft = some_returns(tiny_model, truncation={"penalty": 1.0, "buffer": 2}, sampling={"max_new_tokens": 2})
    assert soft.tolist() == [[0.5, 0.0], [2.0, 2.0]]


@pytest.mark.parametrize(
    "tuning", [{"rank": 4, "alpha": 8}, {"rank": 4, "alpha": 8, "layers": 1}, {"method": "full"}]
)
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(tiny_model, tmp_path, tuning):
    changes = {"tuning": tuning, "kl": {"coef": 0.1, "target": 2.0}, "learning_rate": 1e-3}
    unbroken = make_trainer(tiny_model, **changes)
    expected = []
    for i in range(4):
        expected.append(unbroken.step())
        if i == 1:
            save_checkpoint(tmp_path, 2, unbroken.state_dict(), keep=1)
    torch.manual_seed(99)  # whatever another process has done to the global generators
    resumed = make_trainer(tiny_model, **changes)
    resumed.load_state_dict(load_checkpoint(tmp_path))
    assert json.dumps([resumed.step(), resumed.step()]) == json.dumps(expected[2:])
    for key, tensor in unbroken.models.trained_state().items():
        assert torch.equal(tensor, resumed.models.trained_state()[key]), key


def test_a_score_that_is_not_a_number_stops_the_run(tiny_model):
    class Broken:
        def score(self, conversations):
            return [math.nan] * len(conversations)

    with pytest.raises(AlignmentError, match="not finite"):
        make_trainer(tiny_model, Broken()).step()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": {"top_p": 0.9}}, "top_p to 1"),
        ({"sampling": {"top_k": 5}}, "top_k to 0"),
        ({"sampling": {"temperature": 0}}, "temperature above 0"),
        ({"truncation": {"buffer": 9}}, "more than an answer may have"),
        ({"episodes": 10, "minibatches": 4}, "multiple of minibatches"),
        ({"episodes": 16, "group": 3}, "multiple of group"),
        ({"advantages": "rloo"}, "set group=4"),
    ],
)
def test_settings_that_would_break_the_maths_are_refused(tiny_model, changes, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tiny_model, **changes)
