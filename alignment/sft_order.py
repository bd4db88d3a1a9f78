"""In which order examples are trained on: shuffled or from easy to hard, and one data set after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from alignment.prompts import PromptStream
from alignment.sft_config import SFTConfig, rounds
from alignment.sft_mixture import tempered, whole_shares

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """Some data sets, mixed, for a number of optimizer steps."""

    data: list[str]
    steps: int

    def __str__(self) -> str:
        return f"{' and '.join(self.data)} for {self.steps} steps"


def passes(
    examples: Mapping[str, Sequence[T]],
    shares: Mapping[str, float],
    total: int,
    seed: int,
    hardness: Callable[[T], float] | None,
) -> list[T]:
    """`total` examples in passes of as many as there are; each from easy to hard, or shuffled if `hardness` is None.

    Of each data set every pass has its share, and no example comes a time more often than another.
    """
    streams = {name: PromptStream(some, seed) for name, some in examples.items()}
    once = sum(map(len, examples.values()))
    found: list[T] = []
    for begin in range(0, total, once):
        counts = whole_shares(shares, min(once, total - begin))
        drawn = [example for name, count in counts.items() for example in streams[name].take(count)]
        if hardness:
            drawn.sort(key=hardness)  # of equals, in the order in which they were drawn
        else:
            random.Random(f"{seed}, {begin}").shuffle(drawn)
        found += drawn
    return found


def sequence(
    config: SFTConfig, train: Mapping[str, Sequence[T]], hardness: Callable[[T], float] | None
) -> tuple[list[T], list[Stage]]:
    """All that is trained on, in its order, and the stages; an optimizer step never takes from two of them."""
    ordered: list[T] = []
    stages: list[Stage] = []
    for names in config.stages or [list(train)]:
        some = {name: train[name] for name in ([names] if isinstance(names, str) else names)}
        counts = {name: len(examples) for name, examples in some.items()}
        steps = config.max_steps or rounds(config, sum(counts.values()))
        shares = config.weights or tempered(counts, config.temperature)
        ordered += passes(some, shares, steps * config.batch_size, config.seed, hardness)
        stages.append(Stage(list(some), steps))
    return ordered, stages
