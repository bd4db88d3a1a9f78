"""Rules that need no code of the user's: `length:words`, `format:json`, `regex:PATTERN`, of the answer's text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from reward.errors import RewardError
from reward.scorer import Conversation

Rule = Callable[[str], float]


class TextRule:
    """A function of the answer's text as a Scorer."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        return [float(self.rule(conversation[-1]["content"])) for conversation in conversations]


def open_rule(spec: str) -> TextRule:
    """Raises RewardError for a rule that is not there."""
    name, _, argument = spec.partition(":")
    return TextRule(RULES[name](argument))


def length(unit: str) -> Rule:
    """How many words or characters the answer has."""
    counts: dict[str, Rule] = {"words": lambda text: len(text.split()), "characters": len}
    return _one_of(counts, "length", unit)


def form(name: str) -> Rule:
    """1 for an answer that is wholly of a format, else 0."""
    formats: dict[str, Rule] = {"json": is_json}
    return _one_of(formats, "format", name)


def pattern(expression: str) -> Rule:
    """1 for an answer in which the expression is found, else 0; `.` also stands for a line's end."""
    try:
        found = re.compile(expression, re.DOTALL)
    except re.error as error:
        raise RewardError(f"reward regex:{expression} is no regular expression: {error}") from None
    return lambda text: found.search(text) is not None


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _one_of(known: dict[str, Rule], kind: str, name: str) -> Rule:
    if name not in known:
        raise RewardError(f"reward {kind}:{name}: write one of {', '.join(f'{kind}:{one}' for one in known)}")
    return known[name]


RULES: dict[str, Callable[[str], Rule]] = {"length": length, "format": form, "regex": pattern}
