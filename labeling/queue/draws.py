"""Seeded draws: the same for the same seed and the same circumstances, on every machine."""

from __future__ import annotations

import random


def draw(*circumstances: object) -> float:
    """A number in [0, 1) that depends on these alone."""
    return generator(*circumstances).random()


def draw_order(sides: int, *circumstances: object) -> list[int]:
    """The stored positions 0, 1, ... in the order in which they are shown."""
    order = list(range(sides))
    generator(*circumstances).shuffle(order)
    return order


def generator(*circumstances: object) -> random.Random:
    return random.Random(":".join(str(one) for one in circumstances))
