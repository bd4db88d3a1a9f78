"""Database work for an event loop: on one thread of its own, many small writes in one transaction."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from labeling.store import Store

T = TypeVar("T")
R = TypeVar("R")
Operation = Callable[[Session, Sequence[Any]], Sequence[Any]]
Waiting = tuple[Operation, Any, "asyncio.Future[Any]"]


class StoreWriter:
    """`await writer(operation, item)` gives `item` its part of `operation(session, items)`, once that is committed.

    What waits at the same time shares a transaction (group commit), and an operation is called once for all its
    items, so that one disk flush and a few statements serve many calls in flight. An operation must not raise
    for what it expects: it would undo its neighbours.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="judge-store")
        self._waiting: list[Waiting] = []
        self._flushing: asyncio.Task[None] | None = None

    async def __call__(self, operation: Callable[[Session, Sequence[T]], Sequence[R]], item: T) -> R:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, item, future))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return await future

    async def on_thread(self, function: Callable[[], T]) -> T:
        """Run a function on the same thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        self._thread.shutdown()

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                results = await self.on_thread(lambda batch=batch: self._commit(batch))  # type: ignore[misc]
            except Exception as error:
                for *_, future in batch:
                    if not future.cancelled():
                        future.set_exception(error)
                continue
            for future, result in results:
                if not future.cancelled():
                    future.set_result(result)
        self._flushing = None

    def _commit(self, batch: list[Waiting]) -> list[tuple[asyncio.Future[Any], Any]]:
        by_operation: dict[Operation, list[tuple[Any, asyncio.Future[Any]]]] = defaultdict(list)
        for operation, item, future in batch:
            by_operation[operation].append((item, future))
        done: list[tuple[asyncio.Future[Any], Any]] = []
        with self._store.begin() as session:
            for operation, waiting in by_operation.items():
                results = operation(session, [item for item, _ in waiting])
                done += zip((future for _, future in waiting), results, strict=True)
        return done
