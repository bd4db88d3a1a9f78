"""What a judge job would ask and cost, counted without asking and without writing anything."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeling.judge.calls.asker import usage_of
from labeling.judge.calls.ledger import Call, answered
from labeling.judge.calls.prices import PICO, cost_of, dollars, most_tokens, usual_tokens
from labeling.judge.config import JudgeConfig
from labeling.judge.job import PAGE
from labeling.judge.judge import Judge
from labeling.judge.waiting import references, waiting_comparisons
from labeling.schema import JudgeCall
from labeling.store import Store
from labeling.views import ComparisonView

LOOK_BACK = 200  # answered calls that say how the endpoint counts


@dataclass
class JudgePlan:
    """Sizes of a job. Tokens are estimates, until the ledger holds answers that say how the endpoint counts."""

    comparisons: int = 0
    not_pairs: int = 0  # left alone: more than two sides
    own: int = 0  # left alone: answers of the judge's own model
    calls: int = 0  # to be sent
    calls_answered: int = 0  # in the ledger already, at no cost
    prompt_tokens: int = 0
    completion_tokens: int = 0
    completion_tokens_at_most: int = 0
    cost: float | None = 0.0  # US dollars; None if the price is not known
    cost_at_most: float | None = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_text(self) -> str:
        left = [f"{self.not_pairs:,} with more than two sides"] if self.not_pairs else []
        left += [f"{self.own:,} with answers of the judge's own model"] if self.own else []
        alone = f" ({' and '.join(left)} are left alone)" if left else ""
        price = "no price known: set price.input and price.output"
        if self.cost is not None and self.cost_at_most is not None:
            price = f"about {dollars(round(self.cost * PICO))}, at most {dollars(round(self.cost_at_most * PICO))}"
        return (
            f"{self.comparisons:,} comparisons to judge{alone}: {self.calls:,} calls to send, "
            f"{self.calls_answered:,} answered already; about {self.prompt_tokens:,} prompt tokens and "
            f"{self.completion_tokens:,} of replies (at most {self.completion_tokens_at_most:,}); {price}"
        )


@dataclass(frozen=True)
class Habit:
    """How an endpoint counts: its prompt tokens to ours, and the tokens of a reply (None: not known)."""

    prompt: float = 1.0
    reply: float | None = None


def plan_judge(store: Store, config: JudgeConfig, *, batch: bool = False) -> JudgePlan:
    """Count what `run_judge` would do now. Raises LabelingError for a template that will not do."""
    judges = [Judge(member) for member in config.members()]
    habits = [habit(store, judge) for judge in judges]
    prices = [cost_of(judge.config, batch=batch) for judge in judges]
    plan = JudgePlan() if all(prices) else JudgePlan(cost=None, cost_at_most=None)
    waiting = waiting_comparisons(store, config)
    while page := list(islice(waiting, PAGE)):
        shown = references(store, page) if config.reference else {}
        taken = [view for view in page if judges[0].can_judge(view)]
        plan.not_pairs += len(page) - len(taken)
        judged = [any(config.judge_own or not judge.gave(view) for judge in judges) for view in taken]
        plan.comparisons += sum(judged)
        plan.own += len(taken) - sum(judged)
        for judge, known, price in zip(judges, habits, prices, strict=True):
            mine = [view for view in taken if config.judge_own or not judge.gave(view)]
            calls = calls_to(judge, mine, shown)
            with Session(store.engine) as session:
                done = answered(session, calls)
            plan.calls_answered += len(done)
            for key in calls.keys() - done:
                call, sides = calls[key]
                add(plan, call, known, price, judge.usual_tokens(sides))
    return plan


def calls_to(judge: Judge, views: list[ComparisonView], shown: dict[int, str]) -> dict[str, tuple[Call, int]]:
    """Calls by key with the number of sides: equal texts make equal calls, which are sent once."""
    return {
        question.call.key: (question.call, len(view.sides))
        for view in views
        for question in judge.questions(view, shown.get(view.id, ""))
    }


def add(plan: JudgePlan, call: Call, known: Habit, price: Any, usual_reply: int) -> None:
    prompt = round(usual_tokens(call.body) * known.prompt)
    most_prompt, most_reply = most_tokens(call.body)
    reply = round(usual_reply if known.reply is None else known.reply)
    plan.calls += 1
    plan.prompt_tokens += prompt
    plan.completion_tokens += reply
    plan.completion_tokens_at_most += most_reply or 0
    if plan.cost is not None:
        plan.cost += price(prompt, reply) / PICO
    if plan.cost_at_most is not None:
        most = price(most_prompt, most_reply) / PICO if most_reply is not None else None
        plan.cost_at_most = None if most is None else plan.cost_at_most + most


def habit(store: Store, judge: Judge) -> Habit:
    """How the endpoint counted in the latest answers that this judge's ledger holds."""
    query = (
        select(JudgeCall.request, JudgeCall.reply)
        .where(
            JudgeCall.model == judge.config.model,
            JudgeCall.base_url == judge.config.base_url,
            JudgeCall.state == "answered",
        )
        .order_by(JudgeCall.id.desc())
        .limit(LOOK_BACK)
    )
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    used = [(usual_tokens(request), *usage) for request, reply in rows if (usage := usage_of(reply))]
    if not used:
        return Habit()
    estimated, prompts, replies = (sum(column) for column in zip(*used, strict=True))
    return Habit(prompts / max(1, estimated), replies / len(used))
