"""Which two annotators agree, and which do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labeling.figures.table import LabelTable, opinions

VALUES = 4  # of an opinion: one side, the other, a tie, both bad


@dataclass(frozen=True)
class PairKappa:
    first: str
    second: str
    items: int  # that both labelled; a ranking counts for each of its pairs of sides
    agreement: float
    kappa: float | None  # None where chance alone explains everything: both always say one thing


def kappas(table: LabelTable) -> list[PairKappa]:
    """Cohen's kappa of every two people who labelled something in common, most items first."""
    said = opinions(table.where(table.independent()))
    found = [np.empty((4, 0), dtype=np.int64)]
    for apart in range(1, len(said.unit)):  # opinions on one unit stand side by side
        same = said.unit[apart:] == said.unit[:-apart]
        if not same.any():
            break
        same &= said.annotator[apart:] != said.annotator[:-apart]
        columns = (said.annotator[:-apart], said.annotator[apart:], said.value[:-apart], said.value[apart:])
        found.append(np.stack([column[same] for column in columns]))
    keys, counts = np.unique(np.concatenate(found, axis=1), axis=1, return_counts=True)
    tables: dict[tuple[int, int], np.ndarray] = {}
    for (first, second, a, b), count in zip(keys.T.tolist(), counts.tolist(), strict=True):
        tables.setdefault((first, second), np.zeros((VALUES, VALUES)))[a, b] = count
    pairs = [
        pair_kappa(table.names[first], table.names[second], counted)
        for (first, second), counted in tables.items()
    ]
    return sorted(pairs, key=lambda pair: (-pair.items, pair.first, pair.second))


def pair_kappa(first: str, second: str, counted: np.ndarray) -> PairKappa:
    """Kappa from how often each said what (Cohen 1960); the order of the two does not matter to it."""
    first, second = sorted((first, second))
    n = counted.sum()
    agreement = float(np.trace(counted) / n)
    by_chance = float(counted.sum(axis=0) @ counted.sum(axis=1) / n**2)
    kappa = (agreement - by_chance) / (1 - by_chance) if by_chance < 1 else None
    return PairKappa(first, second, int(n), agreement, kappa)
