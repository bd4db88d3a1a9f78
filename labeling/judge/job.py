"""The judge job: ask an endpoint about every waiting comparison, in both orders, and label what it answers.

A kill at any moment loses at most the calls in flight. Running the job again goes on where it stopped: answers
in the ledger are read, not bought again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from jinja2 import Template
from sqlalchemy import select

from labeling.errors import LabelingError
from labeling.judge import ledger
from labeling.judge.asker import Asker, CallCounts, Stopped
from labeling.judge.client import CallFailed, JudgeClient
from labeling.judge.config import JudgeConfig
from labeling.judge.judgements import record
from labeling.judge.ledger import Call
from labeling.judge.parsing import ReplyReading, read_reply
from labeling.judge.rendering import judge_messages, load_template
from labeling.judge.verdict import ORDERS, combine
from labeling.judge.writer import StoreWriter
from labeling.schema import Annotator
from labeling.store import Store
from labeling.views import ComparisonView

PAGE = 64  # comparisons taken from the store at a time
TOP_LOGPROBS = 5  # the most that every endpoint grants


@dataclass
class JudgeReport:
    """What one run of the job did. Every comparison that it took up is under one of `outcomes` or `not_pairs`."""

    judge: str
    comparisons: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    labels: int = 0
    order_inconsistent: int = 0  # of those with a verdict or a tie
    not_pairs: int = 0  # more than two sides: a pairwise judge leaves them alone
    calls: CallCounts = field(default_factory=CallCounts)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "outcomes": dict(self.outcomes)}

    def as_text(self) -> str:
        outcomes = ", ".join(f"{outcome} {n:,}" for outcome, n in sorted(self.outcomes.items()))
        left_alone = f"; {self.not_pairs:,} with more than two sides left alone" if self.not_pairs else ""
        calls = self.calls
        return (
            f"{self.judge}: {self.comparisons:,} comparisons ({outcomes or 'none waiting'}{left_alone}), "
            f"{self.labels:,} labelled, {self.order_inconsistent:,} of them with a winner that changed with the "
            f"order\ncalls: {calls.attempts:,} sent, {calls.answered:,} answered, {calls.failed:,} turned down, "
            f"{calls.uncertain:,} uncertain, {calls.reused:,} answers reused; tokens: {calls.prompt_tokens:,} in, "
            f"{calls.completion_tokens:,} out"
        )


def run_judge(
    store: Store, config: JudgeConfig, progress: Callable[[int], None] | None = None
) -> JudgeReport:
    """Label the waiting comparisons of `store`; `progress(1)` is called after each.

    An interrupt lets the calls in flight finish and be stored (a second one does not wait for them). Raises
    LabelingError for a template, key, model or address that will not do: what was answered by then is kept.
    """
    template = load_template(config.prompt, config.language)
    return asyncio.run(_Job(store, config, template, progress or (lambda _: None)).run())


def waiting_comparisons(store: Store, config: JudgeConfig) -> Iterator[ComparisonView]:
    """What the job is to label. Comparisons whose judgement failed are among them: their answers are read
    again from the ledger, which costs nothing, and what has no answer is asked again. Raises LabelingError if
    the store holds none at all."""
    if not store.counts()["comparisons"]:
        raise LabelingError(
            "the store holds no comparisons: `align rollout` or `align data import` adds some"
        )
    if config.only == "unlabelled":
        return store.comparisons(unlabelled=True)
    return store.comparisons(without_label_by=judge_id(store, config))


def judge_id(store: Store, config: JudgeConfig) -> int | None:
    """The judge's id as annotator, None if it has none yet: it is made with its first judgement."""
    with store.snapshot() as connection:
        return connection.scalar(select(Annotator.id).where(Annotator.name == config.annotator))


def calls_for(comparison: ComparisonView, config: JudgeConfig, template: Template) -> tuple[Call, Call]:
    """The two requests, one for each order of `ORDERS`."""
    sampling: dict[str, Any] = {"max_tokens": config.max_tokens}
    if config.temperature is not None:
        sampling["temperature"] = config.temperature
    if config.verdict == "logprobs":
        sampling |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    sides = [messages for messages, _ in comparison.sides]

    def call(a: int, b: int) -> Call:
        messages = judge_messages(template, comparison.prompt, sides[a], sides[b])
        return Call(config.base_url, {"model": config.model, "messages": messages, **sampling})

    return call(*ORDERS[0]), call(*ORDERS[1])


class _Job:
    """One run: as many workers as calls may be in flight, each taking comparison after comparison."""

    def __init__(
        self, store: Store, config: JudgeConfig, template: Template, progress: Callable[[int], None]
    ) -> None:
        self.store = store
        self.config = config
        self.template = template
        self.progress = progress
        self.report = JudgeReport(config.annotator)
        self.page: deque[ComparisonView] = deque()
        self.annotator_id: int | None = None

    async def run(self) -> JudgeReport:
        self.stopping = asyncio.Event()
        self.reading = asyncio.Lock()
        self.write = StoreWriter(self.store)
        try:
            async with JudgeClient(self.config) as client:
                self.asker = Asker(self.config, client, self.write, self.stopping)
                self.report.calls = self.asker.counts
                self.report.calls.uncertain += await self.write(
                    partial(ledger.mark_uncertain, base_url=self.config.base_url, model=self.config.model)
                )
                self.waiting = waiting_comparisons(self.store, self.config)
                await self._work_until_done()
        finally:
            self.write.close()
        return self.report

    async def _work_until_done(self) -> None:
        workers = [asyncio.create_task(self._work()) for _ in range(self.config.concurrency)]
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self.stopping.set()  # calls in flight may be paid for: they end, and are stored
            await asyncio.wait(workers)
        errors = [error for worker in workers if (error := worker.exception())]
        if errors:
            raise errors[0]

    async def _work(self) -> None:
        while not self.stopping.is_set() and (comparison := await self._next()) is not None:
            try:
                await self._judge(comparison)
            except Stopped:
                return
            self.report.comparisons += 1
            self.progress(1)

    async def _next(self) -> ComparisonView | None:
        async with self.reading:
            if not self.page:
                self.page.extend(await self.write.on_thread(lambda: list(islice(self.waiting, PAGE))))
            return self.page.popleft() if self.page else None

    async def _judge(self, comparison: ComparisonView) -> None:
        if len(comparison.sides) != 2:
            self.report.not_pairs += 1
            return
        calls = calls_for(comparison, self.config, self.template)
        readings = (await self._ask(calls[0]), await self._ask(calls[1]))
        verdict = combine(readings, self.config.tie_band)
        labelled = await self.write(
            partial(
                record,
                comparison_id=comparison.id,
                annotator_id=await self._annotator_id(),
                verdict=verdict,
                call_keys=[call.key for call in calls],
            )
        )
        self.report.outcomes[verdict.outcome] += 1
        self.report.labels += labelled
        self.report.order_inconsistent += verdict.order_consistent is False

    async def _annotator_id(self) -> int:
        if self.annotator_id is None:
            self.annotator_id = await self.write.on_thread(
                lambda: self.store.annotator(self.config.annotator, "judge")
            )
        return self.annotator_id

    async def _ask(self, call: Call) -> ReplyReading:
        try:
            reply = await self.asker.reply(call)
        except CallFailed as failure:
            return ReplyReading("api_error", reason=str(failure))
        return read_reply(reply, use_logprobs=self.config.verdict == "logprobs")
