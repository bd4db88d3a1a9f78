"""What holds for answers of any shape: one token long, EOS first, all truncated, pad equal to EOS, in groups."""

import math

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from alignment.ppo.advantages import generalized_advantages, group_relative, leave_one_out, rewards_to_go
from alignment.ppo.experience import Experience, Rollouts, microbatches
from alignment.ppo.losses import policy_loss, value_loss
from alignment.ppo.masked import explained_variance, masked_mean, whiten
from alignment.ppo.rewards import shape_scores, token_rewards
from rollout.types import Completion
from tests.alignment.test_ppo_trainer import make_trainer

EOS = PAD = 1  # the tiny model's EOS; here it is the pad as well
ids = st.lists(st.integers(0, 9), min_size=1, max_size=5)
answers = st.tuples(ids, ids, st.sampled_from(["stop", "length"]))
ONE_TOKEN = [([3], [4], "length"), ([3, 4], [EOS], "stop")]
EOS_FIRST = [([EOS], [EOS, EOS, 5], "length"), ([5, EOS], [EOS], "stop"), ([2], [7, 8, EOS], "stop")]
ALL_TRUNCATED = [([3], [4, 5], "length"), ([3, 4], [5, 6, 7, 8], "length")]


def rollouts_of(rows):
    """Rollouts whose engine logprobs say where each token stands: -(row + position / 100)."""
    completions = [
        Completion(tuple(response), tuple(-(i + j / 100) for j in range(len(response))), reason, 0)
        for i, (_, response, reason) in enumerate(rows)
    ]
    return Rollouts.from_completions([p for p, _, _ in rows], completions, [""] * len(rows), PAD)


def numbers(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def experience_of(rows, seed=0):
    """Experience as the trainer makes it, of made-up log-probabilities, values and scores; and the rewards."""
    rollouts = rollouts_of(rows)
    mask = rollouts.sequences.response_mask
    old, reference, values = (numbers(mask.shape, seed + i) * mask for i in range(3))
    rewards = token_rewards(numbers(len(rows), seed + 3), old - reference, 0.1, mask)
    advantages, returns = generalized_advantages(rewards, values, mask, gamma=1.0, lam=0.95)
    return Experience(rollouts.sequences, old, reference, values, whiten(advantages, mask), returns), rewards


def edges(test):
    """The edges that must be among the examples."""
    for rows in (ONE_TOKEN, EOS_FIRST, ALL_TRUNCATED, ONE_TOKEN[:1]):
        test = example(rows=rows, seed=0)(test)
    return test


several = st.lists(answers, min_size=1, max_size=6)
seeds = st.integers(0, 1000)


@edges
@given(rows=several, seed=seeds)
def test_every_token_of_an_answer_is_kept_with_its_own_numbers(rows, seed):
    rollouts = rollouts_of(rows)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    for batch in microbatches(rollouts.sequences, order, 2):
        chosen = rollouts.sequences.select(batch)
        said = rollouts.engine_logprobs[batch, : chosen.response_mask.shape[1]]
        for row, index in enumerate(batch.tolist()):
            prompt, response, reason = rows[index]
            length = int(chosen.lengths[row])
            assert chosen.ids[row, :length].tolist() == [*prompt, *response]
            assert int(chosen.response_mask[row].sum()) == len(response)
            assert bool(rollouts.truncated[index]) == (reason == "length")
            expected = [-(index + j / 100) for j in range(len(response))]
            assert said[row, : len(response)].tolist() == pytest.approx(expected)
            assert not said[row, len(response) :].any()


@edges
@given(rows=several, seed=seeds)
def test_an_answer_is_paid_its_score_less_its_kl(rows, seed):
    mask = rollouts_of(rows).sequences.response_mask
    scores, kl = numbers(len(rows), seed), numbers(mask.shape, seed + 1)
    rewards = token_rewards(scores, kl, 0.5, mask)
    assert not rewards[~mask].any()
    assert torch.allclose(rewards.sum(1), scores - 0.5 * (kl * mask).sum(1), atol=1e-5)
    before_last = mask & ~torch.nn.functional.pad(~mask[:, 1:], (0, 1), value=True)
    assert torch.allclose(rewards[before_last], -0.5 * kl[before_last])


@edges
@given(rows=several, seed=seeds)
def test_an_answer_does_not_feel_its_neighbours(rows, seed):
    """Alone or padded beside longer ones, it has the same advantages and returns, to the last bit."""
    rollouts = rollouts_of(rows)
    mask = rollouts.sequences.response_mask
    rewards, values = numbers(mask.shape, seed) * mask, numbers(mask.shape, seed + 1) * mask
    together = generalized_advantages(rewards, values, mask, gamma=0.9, lam=0.95)
    to_go = rewards_to_go(rewards, mask, 0.9)
    for row, (_, response, _) in enumerate(rows):
        cut = slice(row, row + 1), slice(0, len(response))
        alone = generalized_advantages(rewards[cut], values[cut], mask[cut], gamma=0.9, lam=0.95)
        for one, all_ in zip(
            (*alone, rewards_to_go(rewards[cut], mask[cut], 0.9)), (*together, to_go), strict=True
        ):
            assert torch.equal(one[0], all_[cut][0])
            assert not all_[row, len(response) :].any()


@edges
@given(rows=several, seed=seeds)
def test_what_lies_outside_the_mask_changes_nothing(rows, seed):
    experience, _ = experience_of(rows, seed)
    mask = experience.sequences.response_mask
    moved = experience.old_logprobs + 0.1 * numbers(mask.shape, seed + 9)

    def figures(junk):
        """Losses and statistics with `junk` in every place that holds no token."""
        new, old, advantages, values, returns = (
            torch.where(mask, x, junk)
            for x in (
                moved,
                experience.old_logprobs,
                experience.advantages,
                experience.old_values,
                experience.returns,
            )
        )
        losses = (
            policy_loss(new, old, advantages, clip=0.2)[0],
            value_loss(values, values + 0.3, returns, clip=0.2)[0],
        )
        sums = [(loss * mask).sum() for loss in losses]
        return torch.stack([*sums, masked_mean(returns, mask), whiten(returns, mask).sum()])

    assert torch.equal(figures(0.0), figures(7.0))


@edges
@given(rows=several, seed=seeds)
def test_a_loss_is_the_sum_of_its_microbatches(rows, seed):
    experience, _ = experience_of(rows, seed)

    def loss(part):
        mask = part.sequences.response_mask
        new = part.old_logprobs + 0.2
        return (policy_loss(new, part.old_logprobs, part.advantages, clip=0.1)[0] * mask).sum()

    parts = [
        loss(experience.select(batch))
        for batch in microbatches(experience.sequences, torch.arange(len(rows)), 2)
    ]
    assert torch.allclose(torch.stack(parts).sum(), loss(experience), atol=1e-5)


@edges
@given(rows=several, seed=seeds)
def test_statistics_are_numbers_however_little_there_is(rows, seed):
    experience, _ = experience_of(rows, seed)
    mask = experience.sequences.response_mask
    assert torch.isfinite(experience.advantages).all()
    assert abs(float(masked_mean(experience.advantages, mask))) < 1e-4
    assert math.isfinite(explained_variance(experience.old_values, experience.returns, mask))
    if int(mask.sum()) == 1:
        assert not experience.advantages.any()  # one token is as good as expected


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=6), st.integers(1, 9))
def test_answers_that_are_all_truncated_are_all_alike_under_a_truncation_score(scores, length):
    scores, lengths = torch.tensor(scores), torch.full((len(scores),), length)
    truncated = torch.ones(len(scores), dtype=torch.bool)
    shaped = shape_scores(
        scores, truncated, lengths, clip=10.0, truncation_penalty=1.0, truncation_score=-2.0, limit=9
    )
    assert shaped.tolist() == [-2.0] * len(scores)
    paid = shape_scores(scores, truncated, lengths, clip=10.0, truncation_penalty=1.0, limit=9)
    assert torch.equal(paid, scores.clamp(-10, 10) - 1)


groups = st.integers(2, 4).flatmap(
    lambda size: st.tuples(
        st.just(size),
        st.lists(st.lists(answers, min_size=size, max_size=size), min_size=1, max_size=3),
    )
)


@pytest.mark.parametrize("estimator", [leave_one_out, group_relative])
@given(grouped=groups, seed=seeds)
def test_a_group_is_compared_with_itself_alone(estimator, grouped, seed):
    size, prompts = grouped
    rows = [row for prompt in prompts for row in prompt]
    mask = rollouts_of(rows).sequences.response_mask
    rewards = numbers(mask.shape, seed) * mask
    advantages = estimator(rewards, mask, size)
    assert not advantages[~mask].any()
    first = advantages[:, :1]
    assert torch.equal(advantages, first * mask)  # every token of an answer is credited alike
    assert torch.allclose(first.view(-1, size).sum(1), torch.zeros(len(prompts)), atol=1e-4)
    for start in range(0, len(rows), size):
        here = slice(start, start + size)
        assert torch.allclose(estimator(rewards[here], mask[here], size), advantages[here], atol=1e-6)
    shuffled = torch.arange(len(rows)).view(-1, size).flip(1).flatten()
    assert torch.allclose(estimator(rewards[shuffled], mask[shuffled], size), advantages[shuffled], atol=1e-5)


@pytest.fixture(scope="module")
def trainers(tiny_model):
    changes = {"microbatch": 2, "tuning": {"rank": 4, "alpha": 8, "layers": 1}}
    own = {"trunk": "own", "init": "zero", "learning_rate": 1e-2}
    made = make_trainer(tiny_model, **changes), make_trainer(tiny_model, critic=own, **changes)
    for trainer in made:
        trainer.iteration = 1  # past the first, in which the value head is set to the mean score
        torch.nn.init.normal_(trainer.models.value_head.weight)
    return made


@pytest.mark.parametrize("critic", [0, 1])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@edges
@given(rows=several, seed=seeds)
def test_the_models_see_each_answer_as_if_it_were_alone(trainers, critic, rows, seed):
    """Log-probabilities, reference and values of real models, whatever is padded beside an answer."""
    trainer, rollouts = trainers[critic], rollouts_of(rows)
    scores = numbers(len(rows), seed)
    with torch.no_grad():
        together, seen = trainer.assess(rollouts, scores)
        alone = [
            trainer.assess(rollouts_of([row]), score)[0]
            for row, score in zip(rows, scores.split(1), strict=True)
        ]
    assert all(math.isfinite(value) for value in seen.values())
    assert seen["truncated"] == pytest.approx(sum(reason == "length" for _, _, reason in rows) / len(rows))
    for row, (_, response, _) in enumerate(rows):
        for name in ("old_logprobs", "reference_logprobs", "old_values"):
            found = getattr(together, name)[row]
            assert torch.allclose(found[: len(response)], getattr(alone[row], name)[0], atol=1e-5)
            assert not found[len(response) :].any()
    tokens = int(together.sequences.response_lengths.sum())
    sums, _ = trainer.accumulate(together, tokens, moves_policy=True)
    assert all(math.isfinite(value) for value in sums.values())
    assert sums["ratio_mean"] == pytest.approx(tokens, rel=1e-5)  # nothing was learned yet: every ratio is 1
