"""The numbers of PPO, each worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.ppo.advantages import generalized_advantages, group_relative, leave_one_out, rewards_to_go
from alignment.ppo.kl import AdaptiveKL, FixedKL, kl_estimate, log_ratio
from alignment.ppo.losses import policy_loss, value_loss
from alignment.ppo.masked import explained_variance, masked_mean, masked_var, whiten
from alignment.ppo.rewards import shape_scores, token_rewards

TRUE3 = torch.tensor([[True, True, True]])


def test_gae_by_hand():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.25, 0.5]])
    advantages, returns = generalized_advantages(rewards, values, TRUE3, gamma=1.0, lam=0.5)
    # deltas: 0 + .25 - .5 = -.25;  0 + .5 - .25 = .25;  1 + 0 - .5 = .5 (the value past the end is 0)
    # A2 = .5;  A1 = .25 + .5 * .5 = .5;  A0 = -.25 + .5 * .5 = 0
    assert advantages.tolist() == [[0.0, 0.5, 0.5]]
    assert returns.tolist() == [[0.5, 0.75, 1.0]]


def test_gae_discounts():
    rewards, values = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    advantages, _ = generalized_advantages(
        rewards, values, torch.ones(1, 2, dtype=torch.bool), gamma=0.5, lam=0.5
    )
    # d1 = 2 - 4 = -2;  d0 = 1 + .5 * 4 - 3 = 0;  A0 = 0 + .25 * -2
    assert advantages.tolist() == [[-0.5, -2.0]]


def test_gae_with_lambda_one_is_the_return_minus_the_value():
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0, 30.0]])
    advantages, returns = generalized_advantages(rewards, values, TRUE3, gamma=1.0, lam=1.0)
    assert returns.tolist() == [[6.0, 5.0, 3.0]]
    assert advantages.tolist() == [[-4.0, -15.0, -27.0]]


def test_gae_carries_across_a_masked_gap():
    gap = torch.tensor([[True, False, True]])
    rewards, values = torch.tensor([[0.0, 9.0, 1.0]]), torch.tensor([[0.5, 9.0, 0.5]])
    advantages, returns = generalized_advantages(rewards, values, gap, gamma=1.0, lam=0.5)
    # as if the row were two tokens long: d1 = .5, d0 = .5 - .5 = 0, A0 = .25
    assert advantages.tolist() == [[0.25, 0.0, 0.5]]
    assert returns.tolist() == [[0.75, 0.0, 1.0]]


def test_rloo_by_hand():
    rewards = torch.tensor([[0.0, 1.0], [4.0, 9.0], [2.0, 0.0]])  # three answers to one prompt
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    # totals 1, 4, 2; the others' means 3, 1.5, 2.5
    assert leave_one_out(rewards, mask, 3).tolist() == [[-2.0, -2.0], [2.5, 0.0], [-0.5, -0.5]]


def test_grpo_by_hand():
    rewards, mask = torch.tensor([[1.0], [3.0], [5.0], [5.0]]), torch.ones(4, 1, dtype=torch.bool)
    # two prompts of two answers: (1 - 2) / 1, (3 - 2) / 1; equal answers teach nothing
    found = group_relative(rewards, mask, 2, eps=0.0 + 1e-12).flatten()
    assert found.tolist() == pytest.approx([-1.0, 1.0, 0.0, 0.0])


def test_rewards_to_go_by_hand():
    rewards, mask = (
        torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 9.0]]),
        torch.tensor([[True] * 3, [True, True, False]]),
    )
    assert rewards_to_go(rewards, mask, gamma=0.5).tolist() == [[3.0, 4.0, 4.0], [5.5, 5.0, 0.0]]


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 50))
def test_rloo_of_a_prompt_sums_to_nothing(group, prompts, seed):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(group * prompts, 3, generator=generator)
    advantages = leave_one_out(rewards, torch.ones(rewards.shape, dtype=torch.bool), group)
    assert torch.allclose(advantages.view(prompts, group, 3).sum(1), torch.zeros(prompts, 3), atol=1e-4)


@given(st.integers(1, 6), st.integers(0, 4), st.floats(0.1, 1.0), st.floats(0.0, 1.0))
def test_padding_does_not_move_gae(length, padding, gamma, lam):
    generator = torch.Generator().manual_seed(length)
    rewards, values = torch.randn(2, length, generator=generator), torch.randn(2, length, generator=generator)
    mask = torch.ones(2, length, dtype=torch.bool)
    wide = [torch.nn.functional.pad(x, (0, padding), value=7.0) for x in (rewards, values)]
    plain = generalized_advantages(rewards, values, mask, gamma=gamma, lam=lam)
    padded = generalized_advantages(*wide, torch.nn.functional.pad(mask, (0, padding)), gamma=gamma, lam=lam)
    for a, b in zip(plain, padded, strict=True):
        assert torch.equal(a, b[:, :length])
        assert not b[:, length:].any()


def test_masked_moments_and_whitening():
    x, mask = torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[True, True, False]])
    assert masked_mean(x, mask) == 2.0
    assert masked_var(x, mask) == 1.0
    assert torch.allclose(whiten(x, mask), torch.tensor([[-1.0, 1.0, 0.0]]))


def test_whitening_a_constant_gives_zeros_not_nan():
    assert whiten(torch.full((2, 2), 5.0), torch.ones(2, 2, dtype=torch.bool)).tolist() == [[0, 0], [0, 0]]


def test_explained_variance():
    returns = torch.tensor([[1.0, 2.0, 3.0]])
    assert explained_variance(returns, returns, TRUE3) == 1.0
    assert explained_variance(torch.full((1, 3), 2.0), returns, TRUE3) == pytest.approx(0.0)
    assert explained_variance(-returns, returns, TRUE3) == pytest.approx(-3.0)


def test_kl_estimators_by_hand():
    logprobs, reference = torch.tensor([0.0, -1.0]), torch.tensor([-1.0, -1.0])
    assert kl_estimate(logprobs, reference, "k1").tolist() == [1.0, 0.0]
    assert kl_estimate(logprobs, reference, "k2").tolist() == [0.5, 0.0]
    assert kl_estimate(logprobs, reference, "k3").tolist() == pytest.approx([math.exp(-1), 0.0])


@given(st.floats(-30, 0), st.floats(-30, 0))
def test_k3_is_never_negative(p, q):
    assert kl_estimate(torch.tensor(p), torch.tensor(q), "k3") >= -1e-6


def test_estimators_agree_in_expectation():
    p, q = (
        torch.log_softmax(torch.tensor([1.0, 0.0, -1.0]), 0),
        torch.log_softmax(torch.tensor([0.5, 0.2, 0.0]), 0),
    )
    exact = float((p.exp() * (p - q)).sum())
    for estimator in ("k1", "k3"):
        assert float((p.exp() * kl_estimate(p, q, estimator)).sum()) == pytest.approx(exact, abs=1e-6)


def test_log_ratios_are_clamped():
    assert log_ratio(torch.tensor([0.0, -500.0]), torch.tensor([-500.0, 0.0])).tolist() == [20.0, -20.0]


def test_controllers():
    fixed, adaptive = FixedKL(0.1), AdaptiveKL(0.1, target=6.0, horizon=1000)
    fixed.update(kl=100.0, episodes=50)
    assert fixed.coef == 0.1
    adaptive.update(kl=6.6, episodes=100)  # error 0.1, so 0.1 * (1 + 0.1 * 0.1)
    assert adaptive.coef == pytest.approx(0.101)
    adaptive = AdaptiveKL(0.1, target=6.0, horizon=1000)
    adaptive.update(kl=600.0, episodes=100)  # the error is clipped to 0.2
    assert adaptive.coef == pytest.approx(0.102)
    adaptive.update(kl=0.0, episodes=100)  # and to -0.2
    assert adaptive.coef == pytest.approx(0.102 * 0.98)


def test_policy_loss_by_hand():
    old = torch.zeros(4)
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss, got, clipped = policy_loss(ratio.log(), old, advantages, clip=0.2)
    assert torch.allclose(got, ratio)
    # A > 0: min(1.5, 1.2), min(.5, .8); A < 0: max(1.5, 1.2), max(.5, .8)
    assert torch.allclose(loss, torch.tensor([-1.2, 1.5, -0.5, 0.8]))
    assert clipped.tolist() == [1.0, 0.0, 0.0, 1.0]


def test_a_clipped_token_has_no_gradient():
    logprobs = torch.tensor([math.log(1.5), math.log(1.1)], requires_grad=True)
    loss, _, _ = policy_loss(logprobs, torch.zeros(2), torch.ones(2), clip=0.2)
    loss.sum().backward()
    assert logprobs.grad[0] == 0
    assert logprobs.grad[1] == pytest.approx(-1.1)


def test_dual_clip_bounds_a_huge_ratio():
    logprobs = torch.tensor([math.log(50.0), math.log(50.0)])
    advantages = torch.tensor([-1.0, 1.0])
    loss, _, _ = policy_loss(logprobs, torch.zeros(2), advantages, clip=0.2, dual_clip=3.0)
    assert torch.allclose(loss, torch.tensor([3.0, -1.2]))


def test_value_loss_by_hand():
    values, old, returns = torch.tensor([1.0, 1.0, 0.1]), torch.zeros(3), torch.tensor([1.0, 0.0, 0.5])
    loss, clipped = value_loss(values, old, returns, clip=0.2)
    # clipped values .2, .2, .1;  squares (0, .64), (1, .04), (.16, .16); half the larger
    assert torch.allclose(loss, torch.tensor([0.32, 0.5, 0.08]))
    assert clipped.tolist() == [1.0, 0.0, 0.0]


def test_a_value_that_moves_little_is_not_clipped_by_rounding():
    generator = torch.Generator().manual_seed(0)
    values, old, returns = (0.09 * torch.rand(1000, generator=generator) for _ in range(3))
    loss, clipped = value_loss(values, old, returns, clip=0.2)
    assert not clipped.any()
    assert torch.equal(loss, (values - returns) ** 2 / 2)


def test_the_score_lands_on_the_last_response_token():
    mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    rewards = token_rewards(torch.tensor([5.0, 7.0, 9.0]), torch.full((3, 3), 2.0), 0.1, mask)
    assert torch.allclose(rewards, torch.tensor([[-0.2, 4.8, 0.0], [-0.2, -0.2, 6.8], [8.8, 0.0, 0.0]]))


def test_a_row_without_tokens_is_refused():
    with pytest.raises(ValueError, match="without response tokens"):
        token_rewards(torch.ones(1), torch.zeros(1, 2), 0.1, torch.zeros(1, 2, dtype=torch.bool))


def test_scores_are_clipped_then_penalised():
    scores, truncated = torch.tensor([50.0, -50.0, 3.0]), torch.tensor([False, True, True])
    lengths = torch.tensor([3, 8, 8])
    shaped = shape_scores(scores, truncated, lengths, clip=10.0, truncation_penalty=1.0)
    assert shaped.tolist() == [10.0, -11.0, 2.0]
    replaced = shape_scores(
        scores, truncated, lengths, clip=10.0, truncation_penalty=1.0, truncation_score=-2.0
    )
    assert replaced.tolist() == [10.0, -2.0, -2.0]


def test_the_penalty_rises_over_the_buffer_before_the_limit():
    # limit 20, buffer 8: nothing up to 12 tokens, then an eighth of the penalty a token
    lengths = torch.tensor([5, 12, 13, 16, 20, 20, 9])
    truncated = torch.tensor([False, False, False, False, False, True, True])  # the last: the context ended
    settings = {"clip": 10.0, "truncation_penalty": 2.0, "limit": 20, "buffer": 8}
    shaped = shape_scores(torch.zeros(7), truncated, lengths, **settings)
    assert shaped.tolist() == [0.0, 0.0, -0.25, -1.0, -2.0, -2.0, -2.0]
    replaced = shape_scores(torch.zeros(7), truncated, lengths, truncation_score=-5.0, **settings)
    assert replaced.tolist() == [0.0, 0.0, -0.25, -1.0, -2.0, -5.0, -5.0]


def test_each_token_costs_its_penalty():
    scores, lengths = torch.tensor([1.0, 50.0]), torch.tensor([2, 8])
    shaped = shape_scores(
        scores, torch.tensor([False, True]), lengths, clip=10.0, length_penalty=0.25, truncation_penalty=1.0
    )
    assert shaped.tolist() == [0.5, 7.0]  # 1 - .25 * 2;  10 - .25 * 8 - 1


def test_whitened_rewards_keep_their_mean():
    # mean 3, variance 4
    x, mask = torch.tensor([[1.0, 5.0, 99.0]]), torch.tensor([[True, True, False]])
    assert torch.allclose(whiten(x, mask, keep_mean=True), torch.tensor([[2.0, 4.0, 0.0]]))
