"""The config of `align eval`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from alignment.config import Section
from alignment.evaluation.metrics import Metric
from alignment.models import Dtype
from alignment.scorers import Reward
from labeling.judge.config import JudgeConfig
from rollout.types import Sampling


class Comparisons(Section):
    """Answers of two policies side by side, for a judge or people to compare."""

    store: str = Field(
        description="the label store that gets them, a file or a URL: one of its own, e.g. runs/eval.db, since labels "
        "in the store of your training data would be trained on"
    )
    pairs: Literal["reference", "all"] = Field(
        "reference", description="each policy against the reference, or every two"
    )


class EvalConfig(Section):
    """`align eval`: compare policies on the same prompts."""

    run: str = Field(description="run folder, e.g. runs/eval")
    policies: dict[str, str] = Field(min_length=1, description="name: model, adapter or run folder")
    reference: str = Field("base", description="the policy (by name) that KL is measured to")
    prompts: str = Field(description="held-out prompts: JSONL or Parquet with a `prompt` column")
    limit: int | None = Field(None, ge=1, description="only the first so many prompts")
    samples: int = Field(1, ge=1, description="answers a prompt and policy")
    sampling: Sampling = Sampling()
    check: str | None = Field(
        None, description="task metric package.module:function, (prompt, answer) -> {name: number}"
    )
    metrics: list[Metric] = Field(
        [],
        description="task metrics against the right answers in `reference_column`, e.g. [exact_match, rouge_l]",
    )
    reference_column: str = Field(
        "reference", description="the column of `prompts` with the right answer, or a list of several"
    )
    reward: Reward | None = None
    text: str | None = Field(
        None,
        description="held-out text whose perplexity is measured: JSONL or Parquet with a column `text`, or a text file",
    )
    suites: dict[str, str] = Field(
        {}, description="name: JSONL or Parquet with the columns `prompt` and `expected` (refuse or comply)"
    )
    refusal_judge: JudgeConfig | None = Field(
        None, description="a judge, as for `align judge run`, that tells refusals; null: by how answers begin"
    )
    toxic_words: str | None = Field(
        None, description="a list of words, one a line, that answers should not hold"
    )
    toxicity: Reward | None = Field(None, description="what scores how toxic answers are, as `reward`")
    comparisons: Comparisons | None = Field(
        None, description="where a judge or people are to compare the answers; see `align eval --labels`"
    )
    dtype: Dtype = "auto"
    batch_size: int = Field(64, ge=1, description="answers sampled or scored at once")
    examples: int = Field(6, ge=0, description="prompts shown in the report")
    seed: int = 0

    @field_validator("check")
    @classmethod
    def _dotted(cls, check: str | None) -> str | None:
        if check is not None and not all(part.strip() for part in f"{check}:".split(":")[:2]):
            raise ValueError("write it as package.module:function")
        return check

    @model_validator(mode="after")
    def _reference_is_a_policy(self) -> EvalConfig:
        if self.reference not in self.policies:
            raise ValueError(f"reference {self.reference!r} is none of policies: {', '.join(self.policies)}")
        if self.comparisons and len(self.policies) == 1:
            raise ValueError("comparisons need two policies or more: add one to policies")
        return self

    @property
    def measures_kl(self) -> bool:
        """Only where answers are drawn from the policy's whole distribution."""
        return self.sampling.temperature > 0 and self.sampling.top_p == 1 and self.sampling.top_k == 0
