"""Marks for answers by themselves, outside of any comparison; through the ledger, so that none is paid for twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from labeling.errors import LabelingError
from labeling.judge.calls import ledger
from labeling.judge.calls.alone import alone
from labeling.judge.calls.asker import Asker, CallCounts, Stopped
from labeling.judge.calls.client import CallFailed, JudgeClient
from labeling.judge.calls.ledger import Call
from labeling.judge.calls.prices import PICO, cost_of
from labeling.judge.calls.purse import BudgetSpent, Purse
from labeling.judge.calls.writer import StoreWriter
from labeling.judge.config import JudgeConfig
from labeling.judge.judge import Judge
from labeling.judge.parsing import ReplyReading
from labeling.store import Store
from labeling.views import ComparisonView, Message

Rated = tuple[Sequence[Message], str]  # a prompt, and an answer's text


def rate_answers(
    store: Store, config: JudgeConfig, answers: Sequence[Rated], progress: Callable[[int], None] | None = None
) -> list[ReplyReading]:
    """What the judge's reply about each answer says: `scores` by aspect, or an outcome that is no verdict.

    The judge is asked once, in the mode `pointwise`, whatever `config` says of mode and samples. `store` keeps the
    ledger only. Raises LabelingError for a panel, a template, key, model or address that will not do, or a budget
    that does not reach: what was answered by then is in the ledger.
    """
    if config.panel:
        raise LabelingError("a panel does not rate single answers: take `panel` out")
    judge = Judge(config.model_copy(update={"mode": "pointwise", "samples": 1}))
    calls = []
    for prompt, text in answers:
        view = ComparisonView(0, list(prompt), (([{"role": "assistant", "content": text}], ""),))
        calls.append(judge.questions(view)[0].call)
    if not calls:
        return []
    with alone(store, [judge.config]):
        replies = asyncio.run(_replies(store, judge.config, calls, progress or (lambda _: None)))
    return [
        ReplyReading("api_error", reason=str(reply))
        if isinstance(reply, CallFailed)
        else judge.read(reply, 1)
        for reply in replies
    ]


async def _replies(
    store: Store, config: JudgeConfig, calls: Sequence[Call], progress: Callable[[int], None]
) -> list[dict[str, Any] | CallFailed]:
    """The reply to each call, or why there is none."""
    stopping, write = asyncio.Event(), StoreWriter(store)
    with store.begin() as session:
        ledger.mark_uncertain(session, config.base_url, config.model)
    budget = None if config.budget is None else round(config.budget * PICO)
    purse = Purse(budget, ledger.spent(store, config.base_url, config.model, outstanding=True))

    async def one(call: Call) -> dict[str, Any] | CallFailed:
        try:
            return await asker.reply(call)
        except CallFailed as failure:
            return failure
        finally:
            progress(1)

    try:
        async with JudgeClient(config) as client:
            asker = Asker(
                config, client, write, stopping,
                counts=CallCounts(), purse=purse, cost=cost_of(config, batch=False),
            )  # fmt: skip
            tasks = [asyncio.create_task(one(call)) for call in calls]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                stopping.set()  # calls in flight may be paid for: they end, and are stored
                await asyncio.wait(tasks)
    finally:
        write.close()
    errors = [error for task in tasks if (error := task.exception()) and not isinstance(error, Stopped)]
    if any(isinstance(error, BudgetSpent) for error in errors):
        raise LabelingError(
            f"the budget of {config.budget:g} dollars does not reach for all {len(calls)} answers"
        )
    if errors:
        raise errors[0]
    return [task.result() for task in tasks]
