"""The judge job: ask about every waiting comparison, and label what the endpoint answers.

A kill at any moment loses at most the calls in flight. Running the job again goes on where it stopped: answers
in the ledger are read, not bought again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from labeling.errors import LabelingError
from labeling.judge.calls import ledger
from labeling.judge.calls.alone import alone
from labeling.judge.calls.asker import Asker, Stopped
from labeling.judge.calls.batch import Batcher, FromLedger, NotAsked, open_batches
from labeling.judge.calls.batch_client import BatchClient
from labeling.judge.calls.client import CallFailed, JudgeClient
from labeling.judge.calls.ledger import Call
from labeling.judge.calls.prices import PICO, Cost, cost_of
from labeling.judge.calls.purse import BudgetSpent, Purse
from labeling.judge.calls.writer import StoreWriter
from labeling.judge.config import JudgeConfig
from labeling.judge.judge import Judge
from labeling.judge.judgements import Judged, record
from labeling.judge.opinion import Opinion, decide
from labeling.judge.parsing import ReplyReading
from labeling.judge.report import JudgeReport
from labeling.judge.waiting import references, waiting_comparisons
from labeling.store import Store
from labeling.views import ComparisonView

PAGE = 64  # comparisons taken from the store at a time
IN_HAND = (
    4  # comparisons for each call in flight: those that wait for the disk keep no call from the endpoint
)
Progress = Callable[..., None]  # progress(1, verdict=12, ...)


class Replies(Protocol):
    """Where replies come from: the endpoint by way of the ledger, or the ledger alone."""

    async def reply(self, call: Call) -> dict[str, Any]: ...


@dataclass
class Seat:
    """A judge at work."""

    judge: Judge
    replies: Replies
    annotator_id: int | None = None  # it is made with its first judgement


def run_judge(
    store: Store, config: JudgeConfig, progress: Progress | None = None, *, batch: bool = False
) -> JudgeReport:
    """Label the waiting comparisons of `store`; `progress(1, **figures)` is called after each.

    With `batch` the calls go through the endpoint's batch API, which may take a day; a run that is stopped
    meanwhile is taken up by the next. An interrupt lets the calls in flight finish and be stored (a second one
    does not wait for them). Raises LabelingError for a template, key, model or address that will not do, and while
    another job of one of the judges is at work on the store: what was answered by then is kept.
    """
    judges = [Judge(member) for member in config.members()]
    job = _Job(store, config, judges, progress or (lambda *_, **__: None))
    with alone(store, (judge.config for judge in judges)):
        return asyncio.run(job.run(batch))


class _Job:
    """One run: some workers for each call that may be in flight, each taking comparison after comparison."""

    def __init__(self, store: Store, config: JudgeConfig, judges: list[Judge], progress: Progress) -> None:
        self.store = store
        self.config = config
        self.judges = judges
        self.progress = progress
        self.report = JudgeReport(config.annotator)
        self.page: deque[tuple[ComparisonView, str]] = deque()
        self.panel_id: int | None = None

    async def run(self, batch: bool) -> JudgeReport:
        self.stopping = asyncio.Event()
        self.reading = asyncio.Lock()
        self.naming = asyncio.Lock()
        self.write = StoreWriter(self.store)
        try:
            async with AsyncExitStack() as stack:
                for judge in self.judges:
                    self.report.calls.uncertain += self._mark_uncertain(judge.config)
                self.before = self._spent(outstanding=False)
                budget = None if self.config.budget is None else round(self.config.budget * PICO)
                self.purse = Purse(budget, self._spent(outstanding=True))
                if batch:
                    self.seats = await self._answer_in_batches(stack)
                else:
                    self.seats = [await self._seat(judge, stack) for judge in self.judges]
                self.waiting = waiting_comparisons(self.store, self.config)
                await self._work_until_done()
        finally:
            self.write.close()
        return self.report

    def _spent(self, *, outstanding: bool) -> int:
        return sum(
            ledger.spent(self.store, judge.config.base_url, judge.config.model, outstanding=outstanding)
            for judge in self.judges
        )

    async def _seat(self, judge: Judge, stack: AsyncExitStack) -> Seat:
        """A judge that asks its endpoint call by call."""
        config = judge.config
        if open_batches(self.store, config):
            raise LabelingError(f"a batch of {config.model} is open at {config.base_url}: go on with --batch")
        client = await stack.enter_async_context(JudgeClient(config))
        asker = Asker(
            config, client, self.write, self.stopping,
            counts=self.report.calls, purse=self.purse, cost=self._price(config, batch=False),
        )  # fmt: skip
        return Seat(judge, asker)

    def _price(self, config: JudgeConfig, *, batch: bool) -> Cost | None:
        cost = cost_of(config, batch=batch)
        if cost:
            self.report.cost = 0
        return cost

    async def _answer_in_batches(self, stack: AsyncExitStack) -> list[Seat]:
        """Judges whose replies are all in the ledger by now. What failed in a batch goes into the next."""
        batchers = [
            Batcher(
                self.store, judge.config, await stack.enter_async_context(BatchClient(judge.config)),
                counts=self.report.calls, purse=self.purse, cost=self._price(judge.config, batch=True),
            )
            for judge in self.judges
        ]  # fmt: skip
        for batcher in batchers:
            await batcher.collect()
        try:
            for _ in range(self.config.max_attempts):
                handed = [
                    await batcher.submit(self._calls_to(judge))
                    for judge, batcher in zip(self.judges, batchers, strict=True)
                ]
                for batcher in batchers:
                    await batcher.collect()
                if not any(handed):
                    break
        except BudgetSpent:
            self.report.stopped_by_budget = True
            for batcher in batchers:
                await batcher.collect()
        return [Seat(judge, FromLedger(self.store, self.report.calls)) for judge in self.judges]

    def _calls_to(self, judge: Judge) -> Iterator[Call]:
        """Everything that this judge is to be asked."""
        self.waiting = waiting_comparisons(self.store, self.config)
        while page := self._read_page():
            for view, reference in page:
                if judge.can_judge(view) and (self.config.judge_own or not judge.gave(view)):
                    yield from (question.call for question in judge.questions(view, reference))

    def _mark_uncertain(self, config: JudgeConfig) -> int:
        with self.store.begin() as session:
            return ledger.mark_uncertain(session, config.base_url, config.model)

    async def _work_until_done(self) -> None:
        count = IN_HAND * self.config.concurrency * len(self.seats)
        workers = [asyncio.create_task(self._work()) for _ in range(count)]
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self.stopping.set()  # calls in flight may be paid for: they end, and are stored
            await asyncio.wait(workers)
        errors = [error for worker in workers if (error := worker.exception())]
        if errors:
            raise errors[0]

    async def _work(self) -> None:
        while not self.stopping.is_set() and (following := await self._next()) is not None:
            try:
                await self._judge(*following)
            except Stopped:
                return
            except NotAsked:
                continue
            except BudgetSpent:
                self.report.stopped_by_budget = True
                self.stopping.set()
                return
            self.report.comparisons += 1
            if self.report.cost is not None:
                self.report.cost = self.purse.spent - self.before
            self.progress(1, **self.report.progress())

    async def _next(self) -> tuple[ComparisonView, str] | None:
        """A comparison, and the reference answer to show with it."""
        async with self.reading:
            if not self.page:
                self.page.extend(await self.write.on_thread(self._read_page))
            return self.page.popleft() if self.page else None

    def _read_page(self) -> list[tuple[ComparisonView, str]]:
        views = list(islice(self.waiting, PAGE))
        found = references(self.store, views) if self.config.reference else {}
        return [(view, found.get(view.id, "")) for view in views]

    async def _judge(self, comparison: ComparisonView, reference: str) -> None:
        sitting = [seat for seat in self.seats if self.config.judge_own or not seat.judge.gave(comparison)]
        if not self.judges[0].can_judge(comparison):
            self.report.not_pairs += 1
        elif not sitting:
            self.report.own += 1
        else:
            opinions = [await self._hear(seat, comparison, reference) for seat in sitting]
            await self._decide(comparison, sitting, opinions)

    async def _hear(self, seat: Seat, comparison: ComparisonView, reference: str) -> Opinion:
        questions = seat.judge.questions(comparison, reference)
        readings = []
        for question in questions:
            try:
                reply = await seat.replies.reply(question.call)
                readings.append(seat.judge.read(reply, len(comparison.sides)))
            except CallFailed as failure:
                readings.append(ReplyReading("api_error", reason=str(failure)))
        return Opinion(seat.judge, questions, readings)

    async def _decide(self, comparison: ComparisonView, seats: list[Seat], opinions: list[Opinion]) -> None:
        decision = decide(comparison, opinions, self.config)
        verdict, why = decision.verdict, decision.why_people
        spoken = Judged(
            comparison.id,
            await self._speaker(seats[0]),
            verdict,
            shown_order=[question.order for question in opinions[0].questions],
            call_keys=[key for opinion in opinions for key in opinion.call_keys],
            detail=decision.detail,
            routed=why,
            priority=self.config.route.priority if why else None,
        )
        members = [
            Judged(
                comparison.id,
                await self._annotator(seat),
                opinion.verdict,
                shown_order=[question.order for question in opinion.questions],
                call_keys=opinion.call_keys,
                detail=opinion.detail(comparison),
                speaks=False,
            )
            for seat, opinion in zip(seats, opinions, strict=True)
            if self.config.panel
        ]
        *_, labelled = await asyncio.gather(*(self.write(record, one) for one in [*members, spoken]))
        self.report.outcomes[verdict.outcome] += 1
        self.report.labels += labelled
        self.report.order_inconsistent += verdict.order_consistent is False
        if why:
            self.report.routed[why] += 1

    async def _speaker(self, seat: Seat) -> int:
        """Under whose name the label stands."""
        if not self.config.panel:
            return await self._annotator(seat)
        async with self.naming:
            if self.panel_id is None:
                self.panel_id = await self._named(self.config)
        return self.panel_id

    async def _annotator(self, seat: Seat) -> int:
        async with self.naming:
            if seat.annotator_id is None:
                seat.annotator_id = await self._named(seat.judge.config)
        return seat.annotator_id

    async def _named(self, config: JudgeConfig) -> int:
        endpoints = [[member.base_url, member.model] for member in config.members()]
        meta = {"model": config.model, "endpoints": endpoints}
        return await self.write.on_thread(lambda: self.store.annotator(config.annotator, "judge", meta))
