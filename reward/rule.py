"""Scores from a function of the user's own: code that runs in this process, so only ever one that they name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from reward.errors import RewardError
from reward.scorer import Conversation, checked


class RuleScorer:
    """`package.module:function` as a Scorer: f(conversations) -> one number for each, higher is better."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.function = load_function(place)

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        try:
            scores = self.function(conversations)
        except Exception as error:  # whatever the user's code raises
            raise RewardError(
                f"reward rule {self.place} raised {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        return checked(scores, len(conversations), f"reward rule {self.place}")


def load_function(place: str) -> Callable[..., Any]:
    """Raises RewardError if `package.module:function` names no function that Python can import."""
    module, colon, name = place.partition(":")
    if not (module and colon and name):
        raise RewardError(f"reward rule {place!r}: write it as python:package.module:function")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module of the user's may raise anything while it is imported
        raise RewardError(
            f"reward rule {place} cannot be imported ({type(error).__name__}: {' '.join(str(error).split())}): "
            "install its package, or set PYTHONPATH to its folder"
        ) from error
    if not callable(function):
        raise RewardError(f"reward rule {place} is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]
