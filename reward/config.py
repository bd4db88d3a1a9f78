"""How a reward model is trained. The defaults are for adapters on an instruction-tuned base."""

from __future__ import annotations

from math import isfinite
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class PairBatches(BaseModel):
    """How many preference pairs an optimizer step takes, and in which portions."""

    batch_size: int = Field(32, ge=1, description="pairs an optimizer step")
    microbatch: int = Field(
        8, ge=1, description="pairs a forward, at most; a matter of memory and speed only"
    )

    @model_validator(mode="after")
    def _whole_accumulation(self) -> Self:
        if self.batch_size % self.pairs_a_forward:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of microbatch ({self.microbatch})"
            )
        return self

    @property
    def pairs_a_forward(self) -> int:
        return min(self.microbatch, self.batch_size)


class LabelConfig(BaseModel):
    """What a label is taken to say. Labels are soft and weighted by themselves; all else is off by default."""

    smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="chance that any label says the opposite of what was meant"
    )
    margin_scale: float = Field(
        0.0, ge=0, description="asks a gap of scale * the label's strength (Llama 2 used 1/3); 0 is off"
    )
    ties: Literal["half", "davidson"] = Field(
        "half",
        description="half: a tie is a label of one half; davidson: an outcome of its own, whose frequency is learned",
    )
    source_weights: dict[str, float] = Field(
        {}, description="factor on the weights of a source's labels, e.g. {judge: 0.5}"
    )
    reliability: bool = Field(
        False,
        description="learn how well each annotator and judge follows the scores; noisy ones then pull less",
    )

    length_covariate: Literal["none", "judges", "all"] = Field(
        "none",
        description="learn each rater's liking for longer answers apart from the scores: that of judges only, or that "
        "of people too, which leaves the scores free of it",
    )

    @model_validator(mode="after")
    def _factors(self) -> Self:
        if bad := [name for name, factor in self.source_weights.items() if not 0 <= factor < float("inf")]:
            raise ValueError(f"source_weights.{bad[0]} must be 0 or more")
        return self


class RewardConfig(PairBatches, LabelConfig):
    """The training recipe: Bradley-Terry on soft, weighted labels, one epoch, mild centering."""

    model_config = ConfigDict(extra="forbid")

    epochs: float = Field(
        1.0, gt=0, description="passes over the pairs; reward models overfit after one or two"
    )
    learning_rate: float = Field(1e-4, gt=0, description="peak rate; use about 1e-5 for full tuning")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps over which the rate rises")
    max_length: int = Field(1024, ge=8, description="longest conversation in tokens, prompt and answer")
    too_long: Literal["drop", "truncate"] = Field(
        "drop",
        description="longer pairs are left out, or the beginning of their prompt is; counted and listed either way",
    )
    centering: float = Field(
        0.01, ge=0, description="pulls scores towards mean 0 (Eisenstein et al. 2023); 0 is off"
    )
    members: int = Field(
        1,
        ge=1,
        description="reward models on one base that differ by their seeds: how far they disagree says how sure a score "
        "is. Adapters only; with tuning.layers what lies below these is run once for all",
    )
    aspects: dict[str, float] = Field(
        {},
        description="a reward model for each of these aspects, on its own labels (column `aspects`), all on one base; "
        "the score is their sum by these weights, e.g. {helpful: 0.7, harmless: 0.3}",
    )
    seed: int = Field(0, ge=0, description="of the score head, the adapters and the order of the pairs")

    @model_validator(mode="after")
    def _one_kind_of_members(self) -> Self:
        if self.aspects and self.members > 1:
            raise ValueError("members and aspects do not go together: an aspect has one reward model")
        if not all(isfinite(weight) for weight in self.aspects.values()):
            raise ValueError("the weights of aspects must be numbers")
        return self
