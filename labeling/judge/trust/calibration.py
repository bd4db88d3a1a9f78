"""From what a judge says of itself to how often people agree: a map of probabilities, fitted where both labelled.

Either map is the same for both sides, f(1 - p) = 1 - f(p): it makes a judge surer or less sure and never
changes its winner.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from labeling.errors import LabelingError
from labeling.schema import Annotator
from labeling.store import Store

Kind = Literal["temperature", "isotonic"]
Floats = NDArray[np.float64]
EDGE = 0.01  # a verdict from text alone is 0 or 1, and nobody is that sure
FEWEST = 20  # comparisons to fit on
META = "calibration"  # where a judge's calibration stands in its annotator's meta


@dataclass(frozen=True)
class Calibration:
    """`temperature`: the log-odds are divided by it (Guo et al. 2017). `isotonic`: a line through points."""

    kind: Kind
    fitted_on: int  # comparisons
    temperature: float | None = None
    points: tuple[tuple[float, float], ...] = ()

    def apply(self, p: Floats) -> Floats:
        """What `p` (any shape, 0 to 1) means by people's labels."""
        if self.temperature is not None:
            return sigmoid(log_odds(p) / self.temperature)
        x, y = zip(*self.points, strict=True)
        mapped: Floats = np.interp(p, x, y)
        return mapped

    def as_meta(self) -> dict[str, Any]:
        return asdict(self) | {"points": [list(point) for point in self.points]}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> Calibration:
        return cls(**meta | {"points": tuple((x, y) for x, y in meta["points"])})


def fit(kind: Kind, p: Floats, target: Floats) -> Calibration:
    """The calibration that fits `target` (n,), people's share for the first side, best from `p` (n,).

    Raises LabelingError for fewer than 20 comparisons.
    """
    if len(p) < FEWEST:
        raise LabelingError(
            f"a calibration needs {FEWEST} comparisons that both people and the judge labelled, there are {len(p)}: "
            "run the judge with only=all, or let people label more"
        )
    both = np.concatenate([p, 1 - p]), np.concatenate([target, 1 - target])  # the same for both sides
    if kind == "temperature":
        return Calibration(kind, len(p), temperature=fit_temperature(*both))
    return Calibration(kind, len(p), points=fit_isotonic(*both))


def fit_temperature(p: Floats, target: Floats) -> float:
    """Least cross-entropy, the targets drawn in a little (Platt 1999): a few verdicts that are all right do not
    make a judge infallible. It is convex in 1/T, so the root of its slope is bisected."""
    z = log_odds(p)
    smoothed = (target * len(target) + 1) / (len(target) + 2)
    low, high = 0.01, 100.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        if ((sigmoid(middle * z) - smoothed) * z).sum() > 0:
            high = middle
        else:
            low = middle
    return 1 / (low * high) ** 0.5


def fit_isotonic(p: Floats, target: Floats) -> tuple[tuple[float, float], ...]:
    """Least squares that never falls: pools adjacent violators (Ayer et al. 1955). Blocks are level, and between
    them the map is a straight line."""
    values, place = np.unique(p.round(9), return_inverse=True)  # equal probabilities are one from the start
    weights = np.bincount(place).astype(np.float64)
    targets = np.bincount(place, weights=target)
    blocks: list[tuple[float, float, float, float]] = []  # from, to, sum of targets, weight; means ascend
    for value, total, weight in zip(values.tolist(), targets.tolist(), weights.tolist(), strict=True):
        block = (value, value, total, weight)
        while blocks and blocks[-1][2] * block[3] >= block[2] * blocks[-1][3]:
            before = blocks.pop()
            block = (before[0], block[1], before[2] + block[2], before[3] + block[3])
        blocks.append(block)
    return tuple((x, total / weight) for low, high, total, weight in blocks for x in sorted({low, high}))


def cross_fitted(kind: Kind, p: Floats, target: Floats, groups: NDArray[np.int64], folds: int = 5) -> Floats:
    """`p` calibrated each by a fit on other prompts only: what a fit is worth on comparisons it has not seen."""
    fold = groups % folds
    mapped = p.copy()
    for one in np.unique(fold):
        rest = fold != one
        if rest.sum() >= FEWEST:
            mapped[~rest] = fit(kind, p[rest], target[rest]).apply(p[~rest])
    return mapped


def read_calibrations(connection: Connection) -> dict[int, Calibration]:
    """The calibrations of judges that have one, by their id as annotators."""
    rows = connection.execute(select(Annotator.id, Annotator.meta).where(Annotator.kind == "judge"))
    return {i: Calibration.from_meta(meta[META]) for i, meta in rows if meta.get(META)}


def store_calibration(store: Store, judge: str, calibration: Calibration | None) -> None:
    """From now on snapshots apply this calibration to the judge's labels; None takes it away."""
    with store.begin() as session:
        found = session.execute(select(Annotator).where(Annotator.name == judge)).scalar_one()
        others = {name: value for name, value in found.meta.items() if name != META}
        found.meta = others | ({META: calibration.as_meta()} if calibration else {})


def log_odds(p: Floats) -> Floats:
    clipped = np.clip(p, EDGE, 1 - EDGE)
    odds: Floats = np.log(clipped) - np.log1p(-clipped)
    return odds


def sigmoid(z: Floats) -> Floats:
    value: Floats = 1 / (1 + np.exp(-z))
    return value
