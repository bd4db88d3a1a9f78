"""A reward as a config names it.

One of: a folder; `python:package.module:function`; `length:words`, `format:json`, `regex:PATTERN`; an address; a list
of these, an ensemble; or a weighted sum of all such.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from reward.ensemble import Cautious, Ensemble
from reward.remote import RemoteScorer
from reward.rule import RuleScorer
from reward.rules import RULES, open_rule
from reward.scorer import Scorer
from reward.total import Total

CODE, SERVICE = "python:", ("http://", "https://")
NOT_LEARNED = (CODE, *SERVICE, *(f"{name}:" for name in RULES))


class Part(BaseModel):
    """A summand of a reward."""

    model_config = ConfigDict(extra="forbid")

    reward: str | list[str] = Field(description="what scores: as `reward` itself, but for a sum")
    weight: float = Field(1.0, allow_inf_nan=False, description="its scores are multiplied by this")
    caution: float = Field(
        0.0,
        ge=0,
        description="an ensemble's score is its mean less so many standard deviations of its members",
    )


class Sum(BaseModel):
    """A reward that is the sum of several."""

    model_config = ConfigDict(extra="forbid")

    sum: list[Part] = Field(min_length=1, description="what is added up")


Spec = str | list[str] | Sum


def is_learned(spec: Spec) -> bool:
    """Whether `spec` is one reward model folder, whose weights a critic may start from."""
    return isinstance(spec, str) and not spec.startswith(NOT_LEARNED)


def with_folders(spec: Spec, resolve: Callable[[str], str]) -> Spec:
    """`spec` with `resolve` applied to the folders in it: a run folder, say, stands for the model inside."""
    if isinstance(spec, Sum):
        parts = [part.model_copy(update={"reward": with_folders(part.reward, resolve)}) for part in spec.sum]
        return Sum(sum=parts)
    if isinstance(spec, str):
        return resolve(spec) if is_learned(spec) else spec
    return [resolve(one) if is_learned(one) else one for one in spec]


def open_scorer(spec: Spec, *, device: str | None = None) -> Scorer:
    """The scorer that `spec` names, ready to score. A list makes an ensemble, a Sum a weighted sum.

    Learned scores are normalised by their model's card; rules and services are taken as they are.
    Raises RewardError for what is not there or cannot be used.
    """
    if isinstance(spec, Sum):
        return Total([(open_part(part, device), part.weight) for part in spec.sum])
    if not isinstance(spec, str):
        return Ensemble([open_scorer(one, device=device) for one in spec])
    if spec.startswith(CODE):
        return RuleScorer(spec.removeprefix(CODE))
    if spec.startswith(SERVICE):
        return RemoteScorer(spec)
    if not is_learned(spec):
        return open_rule(spec)
    from reward.learned import LearnedScorer

    return LearnedScorer(spec, device=device, normalise=True)


def open_part(part: Part, device: str | None) -> Scorer:
    scorer = open_scorer(part.reward, device=device)
    return Cautious(scorer, part.caution) if part.caution else scorer
