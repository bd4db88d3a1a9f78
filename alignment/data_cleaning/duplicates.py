"""Rows that say what an earlier row says: word for word, or nearly so (MinHash with locality-sensitive hashing)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignment.data_cleaning.words import plain, runs, words

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

SHINGLE = 3  # words; of Chinese, characters
PERMUTATIONS = 128  # the error of an estimated similarity of 0.8 is 0.035
FOUND = 0.9  # of the pairs that are just alike enough; of those more alike, more


@dataclass(frozen=True)
class Place:
    """A row of a file, counted from 1."""

    file: str
    row: int


@dataclass(frozen=True)
class Duplicate:
    """The earlier row, and how alike the two are: 1 for word for word, else the estimated similarity."""

    of: Place
    similarity: float
    exact: bool


def bands(near: float) -> tuple[int, int]:
    """Bands, and the rows of the sketch in each. Two sketches are compared if they agree in a whole band.

    The most rows, so the fewest comparisons and the least memory, at which the share FOUND of the pairs of similarity
    `near` is: 1 - (1 - near^rows)^bands (Leskovec et al. 2020, section 3.4).
    """
    choices = ((PERMUTATIONS // rows, rows) for rows in range(PERMUTATIONS // 2, 0, -1))
    return next((b, r) for b, r in choices if 1 - (1 - near**r) ** b >= FOUND)


class Seen:
    """The rows that were kept so far. Takes about 7 kB of memory a row, 250 bytes without near duplicates."""

    def __init__(self, near: float | None) -> None:
        """near: from which Jaccard similarity of their shingles on two rows are near duplicates; None: never."""
        from datasketch import MinHash, MinHashLSH

        self.near = near
        self.exact: dict[bytes, Place] = {}
        self.empty = MinHash(PERMUTATIONS)
        self.sketches: list[tuple[Place, MinHash]] = []
        self.index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(near)) if near else None

    def add(self, texts: Sequence[str], place: Place) -> Duplicate | None:
        """Remember a row by its `texts`; or, if it is one again, the row that it repeats."""
        digest = hashlib.blake2b("\x00".join(map(plain, texts)).encode(), digest_size=16).digest()
        if digest in self.exact:
            return Duplicate(self.exact[digest], 1.0, exact=True)
        if self.index is not None:
            sketch = self.empty.copy()
            sketch.update_batch({" ".join(run).encode() for run in runs(words("\n".join(texts)), SHINGLE)})
            if alike := self.most_alike(sketch, self.index):
                return alike
            self.index.insert(len(self.sketches), sketch)
            self.sketches.append((place, sketch))
        self.exact[digest] = place
        return None

    def most_alike(self, sketch: MinHash, index: MinHashLSH) -> Duplicate | None:
        """Of the rows that are near duplicates the most alike; of equals the earliest."""
        found = [(self.sketches[i][1].jaccard(sketch), -i) for i in index.query(sketch)]
        similarity, i = max(found, default=(0.0, 0))
        if not found or similarity < (self.near or 1):
            return None
        return Duplicate(self.sketches[-i][0], similarity, exact=False)
