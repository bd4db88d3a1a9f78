"""What `align dpo` is asked for. The defaults are DPO's on an instruction-tuned base with adapters."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from alignment.config import Section
from alignment.models import ModelConfig
from alignment.scorers import Reward
from alignment.tuning.config import TuningConfig
from labeling.judge.config import JudgeConfig
from reward.config import PairBatches
from rollout.types import Sampling

LossName = Literal["sigmoid", "ipo", "hinge", "robust", "simpo", "cpo", "orpo", "kto"]
# where a loss has other defaults than the fields below
OWN_DEFAULTS: dict[str, dict[str, float]] = {
    "simpo": {"beta": 2.0, "gamma": 1.0},
    "cpo": {"nll": 1.0},
    "orpo": {"nll": 1.0},
}


class LossConfig(BaseModel):
    """Which loss, and its few numbers. Every loss takes soft labels: it is expected over what the label may mean."""

    loss: LossName = Field(
        "sigmoid",
        description="sigmoid: DPO; ipo, hinge, robust: other shapes of it; simpo, cpo, orpo: without a reference; "
        "kto: single answers, each good or bad",
    )
    beta: float = Field(
        0.1,
        gt=0,
        description="the leash: higher stays closer to the reference; for orpo the weight of its odds (simpo: 2)",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="share of labels that say the opposite of what was meant: trusted less (conservative DPO), or "
        "with loss=robust made up for",
    )
    gamma: float = Field(0.0, ge=0, description="gap that every sure label asks for (simpo: 1)")
    margin_scale: float = Field(
        0.0, ge=0, description="a further gap of scale * the label's strength, its column `margin`"
    )
    nll: float = Field(
        0.0,
        ge=0,
        description="adds so much of the preferred answer's negative log-likelihood a token (cpo, orpo: 1)",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_loss(cls, values: Any) -> Any:
        return OWN_DEFAULTS.get(str(values.get("loss")), {}) | values if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _fits_the_loss(self) -> Self:
        if self.loss == "robust" and not self.label_smoothing:
            raise ValueError(
                "loss=robust needs label_smoothing: the share of labels that are wrong, e.g. 0.1"
            )
        if self.loss == "kto" and (self.gamma or self.margin_scale or self.nll):
            raise ValueError("gamma, margin_scale and nll are for losses on pairs, not for loss=kto")
        return self


class Online(Section):
    """For --rounds: what the policy is asked, and who says which of its answers is better: `reward` or `judge`."""

    prompts: str = Field(description="JSONL or Parquet with a `prompt` column")
    prompts_a_round: int | None = Field(
        None, ge=1, description="how many of them a round, taken in turn in a shuffled order; null: all"
    )
    completions: int = Field(
        4, ge=2, description="answers a prompt; by a reward the best and the worst are a pair"
    )
    reward: Reward | None = None
    judge: JudgeConfig | None = Field(
        None, description="a judge as for `align judge run`, in place of a reward"
    )
    sampling: Sampling = Sampling()
    batch_size: int = Field(64, ge=1, description="answers sampled at once")

    @model_validator(mode="after")
    def _one_labels(self) -> Self:
        if (self.reward is None) == (self.judge is None):
            raise ValueError("set one of `reward` and `judge`: what says which answer is better")
        return self


class DPOConfig(Section, PairBatches, LossConfig):
    """`align dpo`: the policy comes to prefer what the labels prefer, on a leash to where it started."""

    run: str = Field(description="run folder, e.g. runs/dpo")
    seed: int = 0
    policy: ModelConfig = Field(description="the policy to tune; as it is now it is the reference")
    data: str | None = Field(
        None,
        description="snapshot folder, or JSONL or Parquet with prompt, chosen and rejected; for loss=kto also one "
        "with prompt, completion and label (or messages and label)",
    )
    rounds: int = Field(
        0,
        ge=0,
        description="so often the policy answers and learns from its answers, in place of `data`; --rounds",
    )
    online: Online | None = Field(None, description="what the rounds need")
    tuning: TuningConfig = TuningConfig()

    epochs: float = Field(1.0, gt=0, description="passes over the pairs")
    learning_rate: float = Field(5e-6, gt=0, description="peak; adapters like 5e-6, full tuning 5e-7")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate rises")
    microbatch: int = Field(
        4, ge=1, description="pairs a forward, at most; a matter of memory and speed only (not so for kto)"
    )
    max_length: int = Field(
        1024, ge=8, description="tokens of prompt and answer; longer pairs are left out and counted"
    )
    save_every: int = Field(100, ge=1, description="optimizer steps between checkpoints for --resume")

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if self.rounds and self.data is not None:
            raise ValueError("the rounds make their own data: leave out `data`, or set rounds=0")
        if not self.rounds and self.data is None:
            raise ValueError("key 'data' is required: the pairs to learn from (or --rounds and `online`)")
        if self.rounds and self.online is None:
            raise ValueError(
                "rounds need the section `online`: the prompts that are answered, and a reward or a judge, e.g. "
                "online.prompts=data/prompts.jsonl online.reward=runs/reward"
            )
        return self
