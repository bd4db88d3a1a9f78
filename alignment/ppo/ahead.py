"""One step ahead: answers to the next prompts are sampled while the policy learns from those before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import Any

from alignment.prompts import EncodedPrompt
from rollout.types import Completion


@dataclass(frozen=True)
class Batch:
    prompts: list[EncodedPrompt]
    answers: Future[list[Completion]]


class Ahead:
    """At most one batch, under way or there. It stays until the next is started, so that a failure loses none."""

    def __init__(self) -> None:
        self.batch: Batch | None = None

    def start(self, prompts: list[EncodedPrompt], sample: Callable[[], list[Completion]]) -> None:
        """In a thread that nobody waits for at the end of a process."""
        answers: Future[list[Completion]] = Future()

        def work() -> None:
            try:
                answers.set_result(sample())
            except BaseException as error:
                answers.set_exception(error)

        threading.Thread(target=work, daemon=True, name="rollouts ahead").start()
        self.batch = Batch(prompts, answers)

    def wait(self) -> tuple[list[EncodedPrompt], list[Completion]] | None:
        """The batch, complete; None if there is none. Raises what its sampling raised."""
        return (self.batch.prompts, self.batch.answers.result()) if self.batch else None

    def put_back(self, batch: Batch | None) -> None:
        """The batch that was there before, in place of one that nobody will learn from, which ends first."""
        if self.batch is not batch:
            self.close()
        self.batch = batch

    def close(self) -> None:
        """Until nothing is under way, whatever comes of it."""
        if self.batch:
            wait_for([self.batch.answers])

    def state_dict(self) -> list[Any] | None:
        """The answers themselves: the policy that gave them is gone when a run resumes."""
        waiting = self.wait()
        if waiting is None:
            return None
        return [[list(c.token_ids), list(c.logprobs), c.finish_reason, c.policy_version] for c in waiting[1]]

    def load_state_dict(self, answers: Sequence[Any] | None, prompts: list[EncodedPrompt]) -> None:
        self.close()
        self.batch = None
        if answers is not None:
            done: Future[list[Completion]] = Future()
            done.set_result(
                [Completion(tuple(t), tuple(p), reason, version) for t, p, reason, version in answers]
            )
            self.batch = Batch(prompts, done)
