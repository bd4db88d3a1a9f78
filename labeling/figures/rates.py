"""A share of so many, with the interval that says how far it can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z = 1.959964  # 95 %


@dataclass(frozen=True)
class Rate:
    """`hits` of `of`; the interval is Wilson's (1927), which holds for few items and near 0 and 1."""

    hits: int
    of: int

    @property
    def share(self) -> float | None:
        return self.hits / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float] | None:
        if not self.of:
            return None
        p, n = self.hits / self.of, self.of
        middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def as_dict(self) -> dict[str, object]:
        return {"hits": self.hits, "of": self.of, "share": self.share, "interval": self.interval}
