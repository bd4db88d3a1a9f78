"""Several vLLM servers that hold one policy: which is asked next, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
)

from rollout.errors import RolloutError
from rollout.server_client import Reply, ServerClient, UnavailableError
from rollout.server_policy import Part, Weights

ATTEMPTS = 6  # of one request, on whichever servers
AT_ONCE = (
    512  # requests under way on one server: enough to keep it full, few enough to share out what is left
)
PAUSE = wait_exponential(multiplier=0.2, max=5.0)  # seconds


class Member(ServerClient):
    """A server of the pool, and how many requests it has under way."""

    under_way = 0


class ServerPool:
    """Asks the least busy server. One that fails is left out until it answers again and has the policy again.

    Open it with `async with`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        parts: Sequence[Part],
        timeout_seconds: float,
        faults: dict[str, str],
        tell: Callable[[str], None],
    ) -> None:
        """parts: the policy that every server is to have; none of them: its base.

        faults: why a server is left out, by its url; kept from one pool to the next by whoever opens them.
        tell: is given a line when a server is left out, and when it is back.
        """
        self.members = [Member(url, timeout_seconds) for url in urls]
        self.parts = list(parts)
        self.timeout_seconds = timeout_seconds
        self.faults = faults
        self.tell = tell
        self._reviving = asyncio.Lock()
        self._slots = asyncio.Semaphore(at_once(len(urls), resource.getrlimit(resource.RLIMIT_NOFILE)[0]))

    async def __aenter__(self) -> ServerPool:
        self._open = AsyncExitStack()
        for member in self.members:
            await self._open.enter_async_context(member)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    @property
    def up(self) -> list[Member]:
        return [member for member in self.members if member.url not in self.faults]

    async def complete(
        self, model: str, prompts: Sequence[list[int]], settings: Sequence[dict[str, Any]]
    ) -> list[Reply]:
        """One reply to each prompt, all by the policy in `parts`. Raises RolloutError where no server will do."""
        replies: dict[int, Reply] = {}
        while missing := [index for index in range(len(prompts)) if index not in replies]:
            await self._bring_up_to_date()
            tasks = {}
            try:
                async with asyncio.TaskGroup() as group:
                    for index in missing:
                        work = self._complete_one(model, prompts[index], settings[index])
                        tasks[index] = group.create_task(work)
            except* RolloutError as errors:
                raise errors.exceptions[0] from None
            found = {index: task.result() for index, task in tasks.items()}
            proven = await self._proven({member for member, _ in found.values()})
            replies |= {index: reply for index, (member, reply) in found.items() if member in proven}
        return [replies[index] for index in range(len(prompts))]

    async def deliver(self, parts: Sequence[Part]) -> None:
        """Put `parts` on every server that answers. Raises RolloutError if one does not take them, or none answers."""
        fresh = [part for part in parts if part not in self.parts]
        self.parts = list(parts)
        await asyncio.gather(*(self._try(member, self._put_on, fresh) for member in self.members))
        if not self.up:
            await self._revive()

    async def require_agreement(self, model: str, ids: list[int], tolerance: float) -> None:
        """Raises RolloutError for servers whose log-probabilities of `ids` by `model` differ, on average, by more."""
        first: tuple[Member, list[float]] | None = None
        for member in self.up if len(self.members) > 1 else []:
            said = await self._try(member, ServerClient.logprobs, model, ids)
            if said is None:
                continue
            first = first or (member, said)
            if not (gap := mean_difference(said, first[1])) <= tolerance:
                raise RolloutError(
                    f"{member.url} and {first[0].url} were given the same policy and do not say the same: they are "
                    f"{gap:.2g} nats apart (tolerance {tolerance:.2g}); do both see the same folder?"
                )

    async def take_off(self, parts: Sequence[Part]) -> None:
        """Let go of what is asked for no more. A server that is gone has let go of it already."""
        for member in self.up:
            for part in parts:
                with suppress(UnavailableError):
                    await part.take_off(member)

    async def _complete_one(
        self, model: str, prompt: list[int], settings: dict[str, Any]
    ) -> tuple[Member, Reply]:
        async with self._slots:
            try:
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception_type(UnavailableError),
                    stop=stop_after_attempt(ATTEMPTS),
                    wait=PAUSE,
                    reraise=True,
                ):
                    with attempt:
                        async with self._turn() as member:
                            reply = await member.complete(model, prompt, settings)
            except UnavailableError as error:
                raise RolloutError(
                    f"a request failed {ATTEMPTS} times, the last time with: {error}"
                ) from None
        if reply.model != model:
            raise RolloutError(f"{member.url} answered with {reply.model!r}, not with {model!r}")
        return member, reply

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[Member]:
        """The least busy server, waited for if there is none."""
        while not self.up:
            await self._revive()
        member = min(self.up, key=lambda m: m.under_way)
        member.under_way += 1
        try:
            yield member
        except UnavailableError as error:
            self._leave_out(member, error)
            raise
        finally:
            member.under_way -= 1

    async def _proven(self, members: set[Member]) -> set[Member]:
        """Those whose answers were the policy's for sure: an adapter's show it, for whole weights they are asked."""
        if not any(isinstance(part, Weights) for part in self.parts):
            return members
        holds = {member: await self._try(member, self._holds) for member in members}
        return {member for member, held in holds.items() if held}

    async def _holds(self, member: Member) -> bool:
        return all([await part.is_on(member) for part in self.parts])

    async def _put_on(self, member: Member, fresh: Sequence[Part] = ()) -> None:
        """What the server lacks. `fresh` it cannot have yet."""
        if not self.parts:
            await member.models()  # whether it answers at all
        for part in self.parts:
            if part in fresh or not await part.is_on(member):
                await part.put_on(member)

    async def _bring_up_to_date(self) -> None:
        """Every server that answers has the policy; one that was started again gets it again."""
        await asyncio.gather(*(self._try(member, self._put_on) for member in self.members))

    async def _revive(self) -> None:
        """Wait until a server answers. Raises RolloutError, with what became of each, if none does in time."""
        async with self._reviving:
            try:
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception_type(UnavailableError),
                    stop=stop_after_delay(self.timeout_seconds),
                    wait=PAUSE,
                    reraise=True,
                ):
                    with attempt:
                        if self.up:
                            return
                        await self._bring_up_to_date()
                        if not self.up:
                            raise UnavailableError(
                                "; ".join(f"{url}: {fault}" for url, fault in self.faults.items())
                            )
            except UnavailableError as error:
                raise RolloutError(
                    f"no server answers, waited {self.timeout_seconds:g} s ({error}); start it again, then resume"
                ) from None

    async def _try(self, member: Member, work: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """The result of `work` on a server, which is left out if it cannot be reached, and back in if it can."""
        try:
            result = await work(member, *arguments)
        except UnavailableError as error:
            self._leave_out(member, error)
            return None
        if self.faults.pop(member.url, None):
            self.tell(f"rollout: {member.url} is back")
        return result

    def _leave_out(self, member: Member, error: UnavailableError) -> None:
        if member.url not in self.faults:
            self.tell(f"rollout: {member.url} is left out: {error}")
        self.faults[member.url] = str(error)


def at_once(servers: int, open_files: int) -> int:
    """Requests under way on all servers together; each takes a connection, and the trainer has files open, too."""
    return max(1, min(AT_ONCE * servers, open_files // 2))


def mean_difference(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)
