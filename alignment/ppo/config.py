"""The config of `align ppo`. The defaults are the recipe; see docs/ppo.md for where each choice comes from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from alignment.config import Section
from alignment.engines import EngineName, VllmConfig
from alignment.models import ModelConfig
from alignment.ppo.alarms import AlarmConfig
from alignment.scorers import Reward
from alignment.trackers import TrackerName
from alignment.tuning.config import TuningConfig
from rollout.types import Sampling


class KLConfig(Section):
    """The leash to the reference."""

    coef: float = Field(0.05, ge=0, description="what one nat of KL costs, in units of reward")
    target: float | None = Field(None, gt=0, description="nats an answer to steer to; null keeps coef fixed")
    horizon: float = Field(10_000, gt=0, description="episodes over which an adaptive coef moves")
    place: Literal["reward", "loss"] = Field(
        "reward", description="reward: k1 in each token's reward; loss: a term"
    )
    loss_estimator: Literal["k2", "k3"] = Field("k2", description="which estimator, where place is loss")


class CriticConfig(Section):
    """The value function."""

    trunk: Literal["policy", "own"] = Field(
        "policy",
        description="policy: a value head on the policy's own trunk, half the work; own: an adapter or a copy "
        "of its own, as full tuning has by default",
    )
    init: Literal["reward", "zero"] = Field(
        "reward", description="where an own trunk starts: from the reward model, or from a zero head"
    )
    coef: float = Field(0.1, ge=0, description="weight of its loss where it shares the policy's trunk")
    learning_rate: float = Field(1e-4, gt=0)
    clip: float = Field(
        0.2, gt=0, description="how far a value may move in one iteration before it is clipped"
    )
    warmup: int = Field(0, ge=0, description="iterations in which only the critic learns")


class TruncationConfig(Section):
    """What befalls an answer that ran into the length limit (finish reason "length")."""

    penalty: float = Field(1.0, ge=0, description="subtracted from its score")
    score: float | None = Field(None, description="if set, takes the place of its score")
    buffer: int = Field(
        0, ge=0, description="tokens before the limit over which the penalty rises from nothing; 0: none do"
    )


class ProbeConfig(Section):
    """Answers to held-out prompts, scored by a judge that the policy is not trained on."""

    prompts: str = Field(description="JSONL or Parquet with a `prompt` column, none of them trained on")
    gold: Reward = Field(description="what scores the answers: as `reward`, but not the same")
    every: int = Field(10, ge=1, description="iterations between probes; the first and the last have one too")
    greedy: bool = Field(False, description="answers at temperature 0 rather than sampled as in training")


class PPOConfig(Section):
    """`align ppo`: rollouts from the policy, scores from a reward model, clipped updates of policy and critic."""

    run: str = Field(description="run folder, e.g. runs/ppo")
    seed: int = 0
    policy: ModelConfig
    reward: Reward
    prompts: str = Field(description="JSONL or Parquet with a `prompt` column")
    tuning: TuningConfig = TuningConfig()
    sampling: Sampling = Sampling()
    engine: EngineName = Field(
        "transformers",
        description="what samples: transformers, the policy itself; vllm, in this process; vllm-server, vLLM elsewhere",
    )
    vllm: VllmConfig = VllmConfig()
    overlap: Literal[0, 1] = Field(
        0,
        description="1: servers sample the next answers while the policy learns from these, which are then one step "
        "old and are weighted for it (importance_cap)",
    )

    iterations: int = Field(100, ge=1)
    episodes: int = Field(64, ge=1, description="answers an iteration, over all processes")
    epochs: int = Field(4, ge=1, description="passes over each iteration's answers")
    minibatches: int = Field(4, ge=1, description="optimizer steps a pass")
    microbatch: int = Field(
        16, ge=1, description="rows a forward; changes memory and speed, never the result"
    )

    gradient_checkpointing: bool = Field(
        False,
        description="layers keep only their inputs and are run again in the backward: less memory, more time",
    )
    reference_on_cpu: bool = Field(
        False, description="full tuning's frozen copy stays in the CPU's memory and is run there"
    )
    shard: bool = Field(
        False,
        description="split the layers' weights over the processes (FSDP2), where one device cannot hold them",
    )

    learning_rate: float = Field(1e-5, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    old_logprobs: Literal["recompute", "engine"] = Field(
        "recompute",
        description="engine: the engine's own, and the values with them where the critic shares the policy's trunk, if "
        "they prove exact; saves a forward",
    )
    importance_cap: float | None = Field(
        None,
        gt=0,
        description="each token's policy loss is weighted by old / engine probability, at most this; null: by at most "
        "2 from the iteration on in which the engine's log-probabilities are off by more than 0.02 nats a token",
    )
    advantages: Literal["gae", "rloo", "grpo", "reinforce++"] = Field(
        "gae", description="gae learns a critic; the others do without one"
    )
    group: int = Field(1, ge=1, description="answers to each prompt; rloo and grpo need 2 or more")
    entropy_coef: float = Field(0.0, ge=0, description="reward for entropy: keeps the policy from collapsing")
    stop_kl: float | None = Field(
        None, gt=0, description="nats a token: an iteration's epochs end once the policy has moved so far"
    )
    gamma: float = Field(1.0, gt=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    clip: float = Field(0.2, gt=0)
    dual_clip: float | None = Field(None, gt=1)
    score_clip: float = Field(10.0, gt=0, description="normalised scores are clipped to +- this")
    length_penalty: float = Field(
        0.0, ge=0, description="subtracted from the score for each token of an answer"
    )
    whiten_rewards: bool = Field(
        False,
        description="rewards of tokens to variance 1 over all answers of an iteration; their mean is kept",
    )
    whiten_advantages: bool = Field(
        True, description="to mean 0 and variance 1 over all answers of an iteration (gae and reinforce++)"
    )
    kl: KLConfig = KLConfig()
    critic: CriticConfig = CriticConfig()
    truncation: TruncationConfig = TruncationConfig()

    probe: ProbeConfig | None = Field(None, description="keeps the best policy by a gold score in RUN/best")
    track: list[TrackerName] = Field([], description="tensorboard, wandb: curves there too")
    alarms: AlarmConfig = AlarmConfig()
    sample_every: int = Field(5, ge=1, description="iterations between answers shown in samples.jsonl")
    save_every: int = Field(10, ge=1, description="iterations between checkpoints")
    keep_checkpoints: int = Field(2, ge=1)

    @field_validator("engine", mode="before")
    @classmethod
    def _gives_token_ids(cls, engine: object) -> object:
        if engine == "openai":
            raise ValueError(
                "PPO learns from token ids and their log-probabilities, and such an endpoint gives text: use "
                "vllm-server, or openai with `align rollout`"
            )
        return engine

    @property
    def asks_engine_for_values(self) -> bool:
        """Whether the policy itself samples, with the critic on its trunk, and is taken at its word."""
        return self.old_logprobs == "engine" and self.has_critic and self.critic.trunk == "policy"

    @model_validator(mode="after")
    def _where_the_critic_sits(self) -> PPOConfig:
        if not self.has_critic:
            self.critic = self.critic.model_copy(update={"trunk": "policy"})
        elif self.tuning.method == "full" and "trunk" not in self.critic.model_fields_set:
            self.critic = self.critic.model_copy(update={"trunk": "own"})
        return self

    @model_validator(mode="after")
    def _what_samples(self) -> PPOConfig:
        if self.engine == "transformers" and self.vllm != VllmConfig():
            raise ValueError("`vllm` is for engine=vllm and engine=vllm-server")
        if self.overlap and self.engine != "vllm-server":
            raise ValueError(
                "overlap=1 samples and learns at once, each on devices of its own: set engine=vllm-server"
            )
        if self.overlap and self.old_logprobs == "engine":
            raise ValueError(
                "overlap=1 learns from an older policy's answers: leave old_logprobs at recompute"
            )
        if self.engine != "transformers" and self.shard:
            raise ValueError(
                "split weights are delivered to no engine: set shard=false, or engine=transformers"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> PPOConfig:
        if self.episodes % self.minibatches:
            raise ValueError(
                f"episodes ({self.episodes}) must be a multiple of minibatches ({self.minibatches})"
            )
        if self.episodes % self.group:
            raise ValueError(f"episodes ({self.episodes}) must be a multiple of group ({self.group})")
        if self.advantages in ("rloo", "grpo") and self.group < 2:
            raise ValueError(f"advantages={self.advantages} compares answers to the same prompt: set group=4")
        if self.sampling.top_p < 1 or self.sampling.top_k > 0:
            raise ValueError(
                "PPO needs the policy's own distribution: set sampling.top_p to 1 and sampling.top_k to 0 "
                "(a truncated distribution makes the ratios wrong)"
            )
        if self.truncation.buffer > self.sampling.max_new_tokens:
            raise ValueError(
                f"truncation.buffer ({self.truncation.buffer}) is more than an answer may have "
                f"(sampling.max_new_tokens, {self.sampling.max_new_tokens})"
            )
        if self.shard and self.tuning.method == "qlora":
            raise ValueError("4-bit weights cannot be split: set shard=false, or tuning.method=lora")
        if self.reference_on_cpu and self.tuning.method != "full":
            raise ValueError(
                "reference_on_cpu is for tuning.method=full: an adapter's reference is the base itself, no copy"
            )
        if self.asks_engine_for_values and self.engine != "transformers":
            raise ValueError(
                "old_logprobs=engine saves nothing where the critic shares the policy's trunk, which is run for its "
                "values: set critic.trunk=own or engine=transformers, or leave old_logprobs at recompute"
            )
        if self.sampling.temperature == 0:
            raise ValueError("PPO needs sampling.temperature above 0: greedy answers carry no exploration")
        if self.probe and self.probe.gold == self.reward:
            raise ValueError(
                "probe.gold is the reward itself: give a scorer that the policy is not trained on"
            )
        return self

    @property
    def has_critic(self) -> bool:
        return self.advantages == "gae"
