"""What a judge job would ask, counted without asking and without writing anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, select

from labeling.judge.config import JudgeConfig
from labeling.judge.job import PAGE, calls_for, waiting_comparisons
from labeling.judge.ledger import Call
from labeling.judge.rendering import load_template
from labeling.schema import JudgeCall
from labeling.store import Store

REQUEST_OVERHEAD_TOKENS = 8  # role markers around a message, as chat templates have them


@dataclass
class JudgePlan:
    """Sizes of a job. Tokens are estimates: an endpoint's own tokenizer is not at hand."""

    comparisons: int = 0
    not_pairs: int = 0  # left alone: more than two sides
    calls: int = 0  # to be sent
    calls_answered: int = 0  # in the ledger already, at no cost
    prompt_tokens: int = 0
    completion_tokens_at_most: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_text(self) -> str:
        left_alone = f" ({self.not_pairs} with more than two sides are left alone)" if self.not_pairs else ""
        return (
            f"{self.comparisons:,} comparisons to judge, both orders{left_alone}: {self.calls:,} calls to send, "
            f"{self.calls_answered:,} answered already; about {self.prompt_tokens:,} prompt tokens and at most "
            f"{self.completion_tokens_at_most:,} completion tokens"
        )


def plan_judge(store: Store, config: JudgeConfig) -> JudgePlan:
    """Count what `run_judge` would do now. Raises LabelingError for a template that will not do."""
    template = load_template(config.prompt, config.language)
    plan = JudgePlan()
    waiting = waiting_comparisons(store, config)
    while page := list(islice(waiting, PAGE)):
        pairs = [comparison for comparison in page if len(comparison.sides) == 2]
        plan.comparisons += len(pairs)
        plan.not_pairs += len(page) - len(pairs)
        # equal texts make equal calls, which are sent once
        calls = {call.key: call for comparison in pairs for call in calls_for(comparison, config, template)}
        with store.snapshot() as connection:
            answered = answered_keys(connection, calls)
        plan.calls_answered += len(answered)
        for key in calls.keys() - answered:
            plan.calls += 1
            plan.prompt_tokens += estimate_tokens(calls[key])
            plan.completion_tokens_at_most += config.max_tokens
    return plan


def answered_keys(connection: Connection, keys: Iterable[str]) -> set[str]:
    return set(
        connection.scalars(
            select(JudgeCall.key).where(JudgeCall.key.in_(list(keys)), JudgeCall.state == "answered")
        )
    )


def estimate_tokens(call: Call) -> int:
    """About four characters of Latin script to a token, and one and a half of Chinese."""
    text = "".join(message["content"] for message in call.body["messages"])
    wide = sum(character >= "\u2e80" for character in text)
    return round(wide / 1.5 + (len(text) - wide) / 4) + REQUEST_OVERHEAD_TOKENS
