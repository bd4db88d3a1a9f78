"""Answering calls in batches: at a lower price, within a day, and through any number of kills.

A batch is a row before the endpoint hears of it, and bears our own name in its metadata: if the answer to its
submission is lost, it is found again by that name. Its calls are intents of the ledger that name the batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from secrets import token_hex

from sqlalchemy import select, update

from labeling.errors import LabelingError
from labeling.judge.calls import ledger
from labeling.judge.calls.asker import CallCounts, usage_of
from labeling.judge.calls.batch_client import BatchClient, Line, Remote
from labeling.judge.calls.client import CallFailed
from labeling.judge.calls.ledger import Call, End, Intent
from labeling.judge.calls.prices import Cost, most_tokens
from labeling.judge.calls.purse import BudgetSpent, Purse
from labeling.judge.config import JudgeConfig
from labeling.reads import pages
from labeling.schema import JudgeBatch, JudgeCall, now
from labeling.store import Store

TRIES = 5  # at a question to the batch API


@dataclass(frozen=True)
class Open:
    """A batch that is not collected yet."""

    id: int
    token: str
    remote_id: str


class Batcher:
    """Puts answers into the ledger by way of the batch API of one endpoint."""

    def __init__(
        self,
        store: Store,
        config: JudgeConfig,
        client: BatchClient,
        *,
        counts: CallCounts,
        purse: Purse,
        cost: Cost | None,
    ) -> None:
        self._store = store
        self._config = config
        self._client = client
        self._counts = counts
        self._purse = purse
        self._cost = cost

    async def collect(self) -> None:
        """Wait for every batch that is open, those of a killed job included, and take in what it answered."""
        for batch in open_batches(self._store, self._config):
            remote = await self._found(batch)
            while remote and not remote.ended:
                await asyncio.sleep(self._config.poll_seconds)
                remote = await self._patiently(self._client.look, remote.id)
            await self._take_in(batch, remote)
            if remote and remote.status == "failed":
                raise LabelingError(
                    f"{self._config.base_url} did not take the batch: {remote.complaint or 'failed'}"
                )

    async def submit(self, calls: Iterable[Call]) -> int:
        """Hand over those of `calls` that have no answer, in batches; how many. Raises BudgetSpent before any
        call that the budget does not bear."""
        submitted = 0
        for page in pages(calls, self._config.batch_size):
            wanted = {call.key: call for call in page}
            with self._store.begin() as session:
                done = ledger.answered(session, wanted)
            fresh = [call for key, call in wanted.items() if key not in done]
            bearable = [call for call in fresh if await self._bears(call)]
            if bearable:
                submitted += await self._hand_over(bearable)
            if len(bearable) < len(fresh):
                raise BudgetSpent
        return submitted

    async def _bears(self, call: Call) -> bool:
        most = self._most(call)
        if self._purse.budget is not None and self._purse.spent + (most or 0) > self._purse.budget:
            return False
        await self._purse.reserve(most)
        await self._purse.settle(most, most)  # a batch's calls count at their worst until they are collected
        return True

    def _most(self, call: Call) -> int | None:
        prompt, reply = most_tokens(call.body)
        return self._cost(prompt, reply) if self._cost and reply is not None else None

    async def _hand_over(self, calls: list[Call]) -> int:
        token = token_hex(16)
        with self._store.begin() as session:
            row = JudgeBatch(
                token=token, base_url=self._config.base_url, model=self._config.model, calls=len(calls)
            )
            session.add(row)
            session.flush()
            batch = Open(row.id, token, "")
            attempts = ledger.claim(session, [Intent(call, self._most(call), row.id) for call in calls])
        mine = [call for call, attempt in zip(calls, attempts, strict=True) if attempt is not None]
        if not mine:  # equal calls are in an earlier batch
            await self._take_in(batch, None)
            return 0
        self._counts.attempts += len(mine)
        try:
            remote = await self._client.submit(token, mine)
        except LabelingError:
            await self._take_in(batch, None)  # there is no batch API
            raise
        except CallFailed as failure:
            if failure.then != "retry":
                await self._take_in(batch, None)  # it was never taken
                raise LabelingError(str(failure)) from None
            return len(mine)  # whether it was taken is found out when it is collected
        self._note(batch, remote)
        return len(mine)

    async def _found(self, batch: Open) -> Remote | None:
        """The batch at its endpoint; None if it never came there."""
        if batch.remote_id:
            return await self._patiently(self._client.look, batch.remote_id)
        remote: Remote | None = await self._patiently(self._client.find, batch.token)
        if remote:
            self._note(batch, remote)
        return remote

    async def _take_in(self, batch: Open, remote: Remote | None) -> None:
        """Write what the batch answered into the ledger; what it did not run has failed, at no cost."""
        lines: list[Line] = await self._patiently(self._client.lines, remote) if remote else []
        status = remote.status if remote else "never taken"
        said = {line.key: line for line in lines}
        query = select(JudgeCall.key, JudgeCall.attempt, JudgeCall.cost).where(
            JudgeCall.batch_id == batch.id, JudgeCall.state == "intent"
        )
        with self._store.begin() as session:
            ends = [
                self._end(key, attempt, most, said.get(key), status)
                for key, attempt, most in session.execute(query).all()
            ]
            if ends:
                ledger.close(session, ends)
            session.execute(
                update(JudgeBatch)
                .where(JudgeBatch.id == batch.id)
                .values(state="collected", status=status, collected_at=now())
            )

    def _end(self, key: str, attempt: int, most: int | None, line: Line | None, status: str) -> End:
        if line is None or line.reply is None:
            self._counts.failed += 1
            self._purse.spent -= most or 0
            error = line.error if line else f"not run: the batch was {status}"
            return End(key, attempt, "failed", error=error, cost=None if most is None else 0)
        self._counts.answered += 1
        tokens = usage_of(line.reply)
        cost = most
        if tokens:
            self._counts.prompt_tokens += tokens[0]
            self._counts.completion_tokens += tokens[1]
            cost = self._cost(*tokens) if self._cost else None
        self._purse.spent += (cost or 0) - (most or 0)
        return End(key, attempt, "answered", line.reply, cost=cost)

    def _note(self, batch: Open, remote: Remote) -> None:
        """Keep the endpoint's name of the batch, before anything is asked about it."""
        with self._store.begin() as session:
            session.execute(
                update(JudgeBatch)
                .where(JudgeBatch.id == batch.id)
                .values(remote_id=remote.id, state="open", status=remote.status)
            )

    async def _patiently(self, ask, *arguments):  # type: ignore[no-untyped-def]
        """Ask the batch API again where that may help; asking costs nothing."""
        for tried in range(1, TRIES + 1):
            try:
                return await ask(*arguments)
            except CallFailed as failure:
                if tried == TRIES or failure.then in ("job", "item"):
                    raise LabelingError(f"{failure}; the batch is kept: run again with --batch") from None
                await asyncio.sleep(min(self._config.poll_seconds, 2.0**tried))


def open_batches(store: Store, config: JudgeConfig) -> list[Open]:
    """This judge's batches that are not collected yet."""
    query = select(JudgeBatch.id, JudgeBatch.token, JudgeBatch.remote_id).where(
        JudgeBatch.model == config.model,
        JudgeBatch.base_url == config.base_url,
        JudgeBatch.state != "collected",
    )
    with store.engine.connect() as connection:
        return [Open(*row) for row in connection.execute(query.order_by(JudgeBatch.id))]


class NotAsked(Exception):
    """The budget ended before this call: its comparison stays as it was."""


class FromLedger:
    """Replies that are in the ledger already; nothing is sent. Raises CallFailed, or NotAsked."""

    def __init__(self, store: Store, counts: CallCounts) -> None:
        self._store = store
        self._counts = counts

    async def reply(self, call: Call) -> dict[str, object]:
        last = (
            select(JudgeCall.state, JudgeCall.reply, JudgeCall.error)
            .where(JudgeCall.key == call.key)
            .order_by(JudgeCall.attempt.desc())
            .limit(1)
        )
        with self._store.engine.connect() as connection:
            row = connection.execute(last).first()
        if row is None:
            raise NotAsked
        if row.state != "answered":
            raise CallFailed(row.error, then="item")
        self._counts.reused += 1
        reply: dict[str, object] = row.reply
        return reply
