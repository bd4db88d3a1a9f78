"""Database work for an event loop: on one thread of its own, many small writes in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from labeling.store import Store

T = TypeVar("T")
Waiting = tuple[Callable[[Session], Any], "asyncio.Future[Any]"]


class StoreWriter:
    """`await writer(operation)` returns when `operation(session)` is committed.

    Operations that wait at the same time share a transaction (group commit), so that one disk flush serves
    many calls in flight. An operation must not raise for what it expects: it would undo its neighbours.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="judge-store")
        self._waiting: list[Waiting] = []
        self._flushing: asyncio.Task[None] | None = None

    async def __call__(self, operation: Callable[[Session], T]) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, future))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return await future

    async def on_thread(self, function: Callable[[], T]) -> T:
        """Run a read on the same thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        self._thread.shutdown()

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                results: list[Any] = await self._commit(batch)
            except Exception as error:
                results = [error] * len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                if future.cancelled():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        self._flushing = None

    async def _commit(self, batch: list[Waiting]) -> list[Any]:
        def transaction() -> list[Any]:
            with self._store.begin() as session:
                results = []
                for operation, _ in batch:
                    results.append(operation(session))
                    session.flush()  # so that the next operation of the batch sees it
                return results

        return await self.on_thread(transaction)
