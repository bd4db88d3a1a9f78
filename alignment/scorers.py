"""The config key that says what scores answers, and the scorer it stands for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from alignment.models import is_adapter, know_adapter, resolve
from reward.scorer import Scorer
from reward.specs import Spec, Sum, open_scorer, with_folders

Ensemble = Annotated[list[str], Field(min_length=2)]
Reward = Annotated[
    str | Ensemble | Sum,
    Field(
        description="what scores answers: a reward model (a folder or a run of `align reward train`), a function "
        "of yours as python:package.module:function, a rule (length:words, format:json, regex:PATTERN), a service as "
        "http://host:port/path, a list of these as an ensemble, or {sum: [{reward: ..., weight: 1, caution: 0}, ...]}"
    ),
]


def resolve_reward(spec: Spec) -> Spec:
    """`spec` with its run folders as the models in them. Raises AlignmentError for a folder without a model."""
    return with_folders(spec, reward_folder)


def reward_folder(given: str) -> str:
    """The folder of the reward model that is meant, which `reward` can load from now on."""
    folder = resolve(given)
    if is_adapter(folder):
        know_adapter(folder)  # by itself `reward` knows PEFT's own methods only
    return folder


def load_scorer(spec: Spec, device: str) -> Scorer:
    """Raises AlignmentError or RewardError for what is not there or cannot be used."""
    return open_scorer(resolve_reward(spec), device=device)
