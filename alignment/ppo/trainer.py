"""The PPO trainer. `PPOTrainer.step` is the algorithm; everything it calls is a pure function or a model."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alignment.checkpoints import State, random_state, restore_random_state
from alignment.errors import AlignmentError
from alignment.ppo.actor_critic import ActorCritic
from alignment.ppo.advantages import generalized_advantages, group_relative, leave_one_out, rewards_to_go
from alignment.ppo.config import PPOConfig
from alignment.ppo.evaluation import Evaluation, evaluate
from alignment.ppo.experience import Experience, Rollouts, microbatches
from alignment.ppo.kl import AdaptiveKL, FixedKL, KLController, kl_estimate
from alignment.ppo.losses import importance_weights, policy_loss, value_loss
from alignment.ppo.masked import explained_variance, masked_mean, whiten
from alignment.ppo.processes import (
    all_reduce_figures,
    all_reduce_gradients,
    all_reduce_max,
    in_shares,
    share,
    world_size,
)
from alignment.ppo.rewards import shape_scores, token_rewards
from alignment.ppo.sampler import Sampler
from alignment.ppo.sequences import Sequences
from alignment.ppo.sharding import clip_gradients, gathered, load_optimizer
from alignment.ppo.trust import EngineTrust
from alignment.prompts import EncodedPrompt
from alignment.tuning.rates import differ, rate_groups
from reward.ensemble import opinions
from reward.scorer import Scorer
from rollout.delivery import require_version
from rollout.types import Completion, RolloutEngine, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PPOTrainer:
    """Improves a policy on prompts by what a scorer says of its answers (Schulman et al. 2017)."""

    def __init__(
        self,
        config: PPOConfig,
        models: ActorCritic,
        engine: RolloutEngine,
        scorer: Scorer,
        prompts: Sequence[EncodedPrompt],
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device | str = "cpu",
    ) -> None:
        size = config.episodes // config.minibatches
        if size % world_size():
            raise AlignmentError(
                f"{world_size()} processes cannot share a minibatch of {size} answers (episodes / minibatches) "
                f"equally: make it a multiple of {world_size()}"
            )
        self.config = config
        self.models = models
        self.sampler = Sampler(
            engine,
            prompts,
            models.policy,
            config.sampling,
            episodes=config.episodes,
            group=config.group,
            seed=config.seed,
        )
        self.scorer = scorer
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.shuffle = torch.Generator().manual_seed(config.seed)
        self.kl: KLController = (
            FixedKL(config.kl.coef)
            if config.kl.target is None
            else AdaptiveKL(config.kl.coef, config.kl.target, config.kl.horizon)
        )
        self.policy_optimizer = _adam(_with_rates(models, config), config.learning_rate)
        self.critic_optimizer = _adam(models.critic_parameters(), config.critic.learning_rate)
        self.trust = EngineTrust(config)
        self.iteration = 0
        self.whole = True  # nothing of an iteration that has not ended is in the state: it may be saved
        self.clock = time.perf_counter
        self.seconds: dict[str, float] = defaultdict(float)
        self.answers: list[tuple[str, str, float]] = []  # of the last iteration: prompt, answer, score

    def step(self) -> dict[str, float]:
        """One iteration; returns its metrics. Seconds by phase are in `self.seconds`."""
        self.seconds.clear()
        config = self.config
        with self.phase("generate"):
            waiting = self.sampler.ahead.wait()
        with self.undone_by_failure():
            with self.phase("sync"):
                self.sampler.deliver()
            with self.phase("generate"):
                prompts, completions = waiting or self.sampler.batch()
                if config.overlap:
                    self.sampler.start_next()
            rollouts = self.rollouts(prompts, completions)
            with self.phase("score"):
                judged = self.score(prompts, rollouts)
                scores = judged.mean(1)
        self.answers = [
            (prompt.messages[-1]["content"], text, score)
            for prompt, text, score in zip(prompts, rollouts.texts, scores.tolist(), strict=True)
        ]
        with self.phase("assess"), torch.no_grad():
            experience, seen = self.assess(rollouts, scores)
        if config.overlap:
            seen["staleness"] = float(waiting is not None)
        if judged.shape[1] > 1:
            seen["disagreement"] = float(judged.std(1, correction=0).mean())
        with self.phase("train"):
            self.sampler.delivered = False
            learned = self.learn(experience)
        self.kl.update(seen["kl"], config.episodes)
        self.iteration, self.whole = self.iteration + 1, True
        return {"iteration": self.iteration, **learned, **seen}

    def generate(self, prompts: Sequence[EncodedPrompt], sampling: Sampling | None = None) -> Rollouts:
        """The policy answers, with the run's own sampling unless told otherwise."""
        return self.rollouts(prompts, self.sampler.sample(prompts, sampling))

    def rollouts(self, prompts: Sequence[EncodedPrompt], completions: list[Completion]) -> Rollouts:
        """Answers with their texts. Raises RolloutError for answers of several versions of the policy."""
        require_version(completions)
        ids = [prompt.ids for prompt in prompts]
        texts = self.tokenizer.batch_decode([c.token_ids for c in completions], skip_special_tokens=True)
        return Rollouts.from_completions(ids, completions, texts, self.tokenizer.pad_token_id)

    def score(
        self, prompts: Sequence[EncodedPrompt], rollouts: Rollouts, scorer: Scorer | None = None
    ) -> Tensor:
        """The scorer, the reward unless told otherwise, reads prompt and answer as text, in its own template.

        Returns (b, m): a column for each member of an ensemble, one for any other scorer.
        """
        conversations = [
            [*prompt.messages, {"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, rollouts.texts, strict=True)
        ]
        judged = in_shares(
            lambda rows: opinions(scorer or self.scorer, [conversations[row] for row in rows]),
            rollouts.sequences.lengths,
        )
        scores = torch.tensor(judged, dtype=torch.float32)
        if not bool(torch.isfinite(scores).all()):
            raise AlignmentError("the reward model gave a score that is not finite")
        return scores

    def assess(self, rollouts: Rollouts, scores: Tensor) -> tuple[Experience, dict[str, float]]:
        """Old and reference log-probabilities, values, rewards; from these the advantages."""
        config, sequences = self.config, rollouts.sequences
        shaped = shape_scores(
            scores,
            rollouts.truncated,
            sequences.response_lengths,
            clip=config.score_clip,
            length_penalty=config.length_penalty,
            truncation_penalty=config.truncation.penalty,
            truncation_score=config.truncation.score,
            limit=config.sampling.max_new_tokens,
            buffer=config.truncation.buffer,
        )
        if self.iteration == 0 and not self.models.value_head.weight.any():
            # a critic that knows nothing yet starts at the mean: else lambda < 1 shortens answers by itself
            self.models.value_head.bias.fill_(float(shaped.mean()))
        recomputes, said = not self.trust.suffices(self.iteration), rollouts.engine_values
        found = self.evaluate(sequences, policy=recomputes, critic=recomputes or said is None)
        sequences, reference = found.sequences, found.reference
        old = found.logprobs if recomputes else rollouts.engine_logprobs
        values = found.values if recomputes or said is None else said
        mask = sequences.response_mask
        kl = kl_estimate(old, reference, "k1")
        rewards = token_rewards(shaped, kl, self.kl.coef if config.kl.place == "reward" else 0.0, mask)
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, keep_mean=True)
        advantages, returns = self.advantages(rewards, values, mask)
        seen = {
            "score_mean": float(scores.mean()),
            "score_std": float(scores.std(correction=0)),
            "kl_coef": self.kl.coef,
            **rollouts.figures(old, reference),
        }
        if recomputes:
            gap = (old - rollouts.engine_logprobs).abs()
            seen["entropy"] = float(masked_mean(found.entropy, mask))
            seen |= {"engine_gap_mean": float(masked_mean(gap, mask)), "engine_gap_max": float(gap.max())}
            largest = seen["engine_gap_max"]
            if said is not None and self.iteration > 0:  # in the first the head is moved, above
                largest = max(largest, float((found.values - said).abs().max()))
            self.trust.hear(seen["engine_gap_mean"], largest)
        if self.sampler.delivery:
            seen["delivery_gap"] = self.sampler.delivery.gap
        if self.trust.cap:
            weights = importance_weights(old, rollouts.engine_logprobs, cap=self.trust.cap)
            advantages = advantages * weights
            seen["importance_mean"] = float(masked_mean(weights, mask))
        if config.has_critic:
            seen["explained_variance"] = float(explained_variance(values, returns, mask))
        return Experience(sequences, old, reference, values, advantages, returns), seen

    def evaluate(self, sequences: Sequences, *, policy: bool = True, critic: bool = True) -> Evaluation:
        """What the models say of each response token; policy and critic only if asked."""
        config = self.config
        return evaluate(
            self.models,
            sequences,
            config.sampling.temperature,
            config.microbatch,
            policy=policy,
            critic=critic and config.has_critic,
        )

    def advantages(self, rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns (b, r) by the configured estimator; returns mean something to a critic only."""
        config, returns = self.config, values
        match config.advantages:
            case "rloo":
                return leave_one_out(rewards, mask, config.group), returns
            case "grpo":
                return group_relative(rewards, mask, config.group), returns
            case "reinforce++":
                advantages = rewards_to_go(rewards, mask, config.gamma)
            case "gae":
                advantages, returns = generalized_advantages(
                    rewards, values, mask, gamma=config.gamma, lam=config.lam
                )
        return whiten(advantages, mask) if config.whiten_advantages else advantages, returns

    def learn(self, experience: Experience) -> dict[str, float]:
        """Epochs of minibatches, reshuffled each epoch; one optimizer step a minibatch."""
        config = self.config
        size = config.episodes // config.minibatches
        moves_policy = self.iteration >= config.critic.warmup or not config.has_critic
        totals: dict[str, float] = defaultdict(float)
        ratio_max, tokens_seen, steps, epochs = 0.0, 0, 0, 0
        while epochs < config.epochs and not self.moved_too_far(totals, tokens_seen):
            for rows in torch.randperm(config.episodes, generator=self.shuffle).split(size):
                tokens = int(experience.sequences.response_lengths[rows].sum())
                mine, seen = rows[share(experience.sequences.lengths[rows])], defaultdict[str, float](float)
                for part in microbatches(experience.sequences, mine, config.microbatch):
                    sums, largest = self.accumulate(
                        experience.select(part).to(self.device), tokens, moves_policy
                    )
                    ratio_max = max(ratio_max, largest)
                    for name, value in sums.items():
                        seen[name] += value
                for name, value in all_reduce_figures(seen).items():
                    totals[name] += value
                if config.has_critic:
                    totals["critic_grad_norm"] += self.descend(self.critic_optimizer)
                if moves_policy:
                    totals["policy_grad_norm"] += self.descend(self.policy_optimizer)
                tokens_seen, steps = tokens_seen + tokens, steps + 1
            epochs += 1
        means = {k: v / (steps if k.endswith("norm") else tokens_seen) for k, v in totals.items()}
        return means | {"ratio_max": all_reduce_max(ratio_max), "epochs": epochs}

    def moved_too_far(self, totals: dict[str, float], tokens: int) -> bool:
        """Whether the policy has left, over this iteration's epochs, the one that sampled by more than `stop_kl`."""
        return self.config.stop_kl is not None and totals["update_kl"] > self.config.stop_kl * tokens

    def accumulate(
        self, batch: Experience, tokens: int, moves_policy: bool
    ) -> tuple[dict[str, float], float]:
        """Gradients of one microbatch, as its share of an optimizer step of `tokens` response tokens.

        Returns sums over tokens for the metrics, and the largest ratio.
        """
        mask, seen = batch.sequences.response_mask, dict[str, Tensor]()
        for loss in self.losses(batch, moves_policy, seen):
            ((loss * mask).sum() / tokens).backward()
        largest = float((seen["ratio_mean"] * mask).max()) if moves_policy else 1.0
        return {name: float((x.detach() * mask).sum()) for name, x in seen.items()}, largest

    def losses(self, batch: Experience, moves_policy: bool, seen: dict[str, Tensor]) -> Iterator[Tensor]:
        """The loss of each token (b, r): of policy and critic together where they share a trunk, else one by one.

        The second is computed after the first's backward: switching adapters in between would lose gradients.
        """
        temperature = self.config.sampling.temperature
        if moves_policy and self.models.shares_trunk and self.config.has_critic:
            logprobs, entropy, values = self.models.policy_and_values(batch.sequences, temperature)
            policy = self.policy_loss(batch, logprobs, entropy, seen)
            yield policy + self.config.critic.coef * self.value_loss(batch, values, seen)
            return
        if moves_policy:
            yield self.policy_loss(batch, *self.models.policy_logprobs(batch.sequences, temperature), seen)
        if self.config.has_critic:
            yield self.value_loss(batch, self.models.values(batch.sequences), seen)

    def policy_loss(
        self, batch: Experience, logprobs: Tensor, entropy: Tensor, seen: dict[str, Tensor]
    ) -> Tensor:
        config = self.config
        loss, ratio, clipped = policy_loss(
            logprobs, batch.old_logprobs, batch.advantages, clip=config.clip, dual_clip=config.dual_clip
        )
        if config.kl.place == "loss":
            estimate = kl_estimate(logprobs, batch.reference_logprobs, config.kl.loss_estimator)
            loss = loss + self.kl.coef * estimate
        if config.entropy_coef:
            loss = loss - config.entropy_coef * entropy
        seen |= {
            "policy_loss": loss,
            "ratio_mean": ratio.detach(),
            "policy_clipped": clipped,
            "entropy": entropy.detach(),
            "update_kl": kl_estimate(batch.old_logprobs, logprobs.detach(), "k3"),
        }
        return loss

    def value_loss(self, batch: Experience, values: Tensor, seen: dict[str, Tensor]) -> Tensor:
        loss, clipped = value_loss(values, batch.old_values, batch.returns, clip=self.config.critic.clip)
        seen |= {"value_loss": loss, "value_clipped": clipped}
        return loss

    def descend(self, optimizer: torch.optim.Optimizer) -> float:
        """One optimizer step on clipped gradients; returns the norm before clipping."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        all_reduce_gradients(parameters)
        norm = clip_gradients(parameters, self.config.max_grad_norm)
        if not math.isfinite(norm):
            raise AlignmentError("the gradient is not finite; lower learning_rate or raise kl.coef")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    @contextmanager
    def undone_by_failure(self) -> Iterator[None]:
        """Before anything is learned a failure leaves the state as it found it; after that, half an iteration's."""
        generators = random_state()
        try:
            with self.sampler.undone_by_failure():
                yield
        except BaseException:
            restore_random_state(generators)
            raise
        self.whole = False

    def state_dict(self) -> State:
        """Everything that the next iteration depends on, for any number of processes; whole on the main one."""
        return {
            "iteration": self.iteration,
            "models": gathered(self.models.trained_state()),
            "policy_optimizer": gathered(self.policy_optimizer.state_dict()),
            "critic_optimizer": gathered(self.critic_optimizer.state_dict()),
            "kl_coef": self.kl.coef,
            "shuffle": self.shuffle.get_state(),
            **self.sampler.state_dict(),
            **self.trust.state_dict(),
            "random": random_state(),
        }

    def load_state_dict(self, state: State) -> None:
        self.iteration = state["iteration"]
        self.models.load_trained_state(state["models"])
        load_optimizer(self.policy_optimizer, state["policy_optimizer"])
        load_optimizer(self.critic_optimizer, state["critic_optimizer"])
        self.kl.coef = state["kl_coef"]
        self.shuffle.set_state(state["shuffle"])
        self.sampler.load_state_dict(state)
        self.trust.load_state_dict(state)
        restore_random_state(state["random"])

    def close(self) -> None:
        """End what is under way, and the engine."""
        self.sampler.close()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = self.clock()
        yield
        self.seconds[name] += self.clock() - started


def _with_rates(models: ActorCritic, config: PPOConfig) -> list[nn.Parameter] | list[dict[str, Any]]:
    """The policy's parameters, in groups where the tuning gives them rates of their own."""
    if not differ(config.tuning):
        return models.policy_parameters()
    return rate_groups(models.named_policy_parameters(), config.tuning, config.learning_rate)


def _adam(
    parameters: list[nn.Parameter] | list[dict[str, Any]], learning_rate: float
) -> torch.optim.Optimizer:
    """Adam with eps 1e-5, as the PPO reference implementations have it; no weight decay."""
    return torch.optim.Adam(parameters, lr=learning_rate, eps=1e-5)
