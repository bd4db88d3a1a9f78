"""What goes into the store and what comes out of it, as plain frozen records.

A message is `{"role": ..., "content": ...}`, both text. A prompt is a list of messages that ends where a model
answers (a user or tool turn); a completion is what follows (usually one assistant message).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Message = dict[str, str]
Verdict = Literal["preference", "tie", "both_bad", "ranking"]
Purpose = Literal["label", "gold", "repeat", "adjudicate", "late"]
PEOPLE = ("human", "scripted")  # kinds of annotators: scripted ones stand in for people
Outcome = Literal["added", "duplicate", "identical", "empty"]


@dataclass(frozen=True)
class NewCompletion:
    messages: Sequence[Message]
    model: str = ""
    policy_version: int = 0
    finish_reason: str = "stop"
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NewComparison:
    """Two completions of a prompt to compare, or up to nine to rank."""

    prompt: Sequence[Message]
    completions: Sequence[NewCompletion]
    origin: str = "rollout"
    priority: float = 0.0
    meta: dict[str, Any] | None = None  # kept with the prompt


@dataclass(frozen=True)
class NewAnswer:
    """A prompt with one answer and nothing to compare it with: instruction data."""

    prompt: Sequence[Message]
    completion: NewCompletion
    reference: bool = True  # worth imitating: exported as SFT data
    meta: dict[str, Any] | None = None  # kept with the prompt


@dataclass(frozen=True)
class Added:
    """What became of a new comparison. `comparison_id` is None unless it is in the store now."""

    comparison_id: int | None
    outcome: Outcome


@dataclass(frozen=True)
class ComparisonView:
    id: int
    prompt: list[Message]
    sides: tuple[tuple[list[Message], str], ...]  # (completion messages, model), in stored order
    group: str = ""  # hash of the prompt


@dataclass(frozen=True)
class NewLabel:
    """A verdict to record. `p_first`: probability that the side at stored position 0 is the better one.

    A ranking gives `meta["ranks"]`, one rank for each stored position: 1 is the best, equal ranks are ties;
    its `p_first` is not read.
    """

    comparison_id: int
    annotator_id: int
    verdict: Verdict
    p_first: float
    shown_order: Sequence[Any]
    idempotency_key: str
    strength: int = 0
    rationale: str = ""
    seconds: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    assignment_id: int | None = None
    supersedes_id: int | None = None
    purpose: Purpose = "label"


@dataclass(frozen=True)
class LabelView:
    id: int
    comparison_id: int
    annotator_id: int
    annotator: str
    kind: str
    verdict: Verdict
    p_first: float
    strength: int
    shown_order: list[Any]
    rationale: str
    seconds: float | None
    meta: dict[str, Any]
    created_at: datetime
    purpose: Purpose = "label"
