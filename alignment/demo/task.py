"""What a demo task offers: prompts, reference answers to learn from, and an oracle that knows what is right."""

from __future__ import annotations

from typing import Any, Literal, Protocol

Message = dict[str, str]  # {role, content}
Split = Literal["train", "test"]


class Task(Protocol):
    """A task whose answers can be checked exactly; a module of such functions is one too.

    Everything follows from the seed. The oracle serves the scripted annotators and the final figures;
    no trainer and no reward model sees it.
    """

    @property
    def name(self) -> str: ...

    def references(self, n: int, seed: int) -> list[dict[str, Any]]:
        """`n` rows {prompt, completion} (lists of messages) for SFT, on training prompts only."""
        ...

    def prompts(self, n: int, seed: int, split: Split) -> list[list[Message]]:
        """`n` distinct prompts; no prompt is in both splits, whatever the seeds."""
        ...

    def check(self, prompt: list[Message], answer: str) -> dict[str, float]:
        """The oracle's figures for an answer; at least

        success   1 if nothing is wrong with it, else 0
        complete  1 if every fact is there
        faithful  1 if nothing is invented or contradicted
        quality   minus its faults: what answers are compared by, 0 is perfect

        Raises AlignmentError for a prompt that is not the task's.
        """
        ...


def prefers(task: Task, prompt: list[Message], first: str, second: str) -> float:
    """1 if the oracle finds `first` better, 0 if `second`, 0.5 if they are equally good."""
    a, b = (task.check(prompt, answer)["quality"] for answer in (first, second))
    return 0.5 if a == b else float(a > b)
