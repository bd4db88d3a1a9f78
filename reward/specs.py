"""A reward as a config names it: a folder, `python:package.module:function`, an address, or a list of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reward.ensemble import Ensemble
from reward.remote import RemoteScorer
from reward.rule import RuleScorer
from reward.scorer import Scorer

Spec = str | list[str]
RULE, SERVICE = "python:", ("http://", "https://")


def is_learned(spec: Spec) -> bool:
    """Whether `spec` is one reward model folder, whose weights a critic may start from."""
    return isinstance(spec, str) and not spec.startswith((RULE, *SERVICE))


def with_folders(spec: Spec, resolve: Callable[[str], str]) -> Spec:
    """`spec` with `resolve` applied to the folders in it: a run folder, say, stands for the model inside."""
    if isinstance(spec, str):
        return resolve(spec) if is_learned(spec) else spec
    return [resolve(one) if is_learned(one) else one for one in spec]


def open_scorer(spec: Spec, *, device: str | None = None) -> Scorer:
    """The scorer that `spec` names, ready to score. A list makes an ensemble.

    Learned scores are normalised by their model's card; rules and services are taken as they are.
    Raises RewardError for what is not there or cannot be used.
    """
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return Ensemble([open_scorer(one, device=device) for one in spec])
    if spec.startswith(RULE):
        return RuleScorer(spec.removeprefix(RULE))
    if spec.startswith(SERVICE):
        return RemoteScorer(spec)
    from reward.learned import LearnedScorer

    return LearnedScorer(spec, device=device, normalise=True)
