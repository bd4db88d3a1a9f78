"""How a label becomes rows of a preference dataset.

- preference: chosen is the side that p_first favours. With a strength of 1, 2 or 3 (slightly, clearly, much
  better) margin = strength and p_chosen = sigmoid(strength) = 0.73, 0.88, 0.95, so that a step of the scale is
  one unit of Bradley-Terry log-odds; the margins are those of Llama 2 (Touvron et al. 2023, table 27). Without
  a strength p_chosen = max(p_first, 1 - p_first), and margin is the score difference that an import found.
  A judge's p_first is calibrated, where `align judge report --calibrate` has fitted a calibration.
- tie: p_chosen = 0.5, and chosen is the side at stored position 0.
- ranking of K sides: its K(K-1)/2 pairs, each with weight 2/(K(K-1)), so that a ranking weighs as much as a
  pair (Ouyang et al. 2022, eq. 1); equal ranks are ties.
- both_bad: prefers nothing, so it is left out, and counted in the manifest.
- Left out and counted as well: labels that were asked for as checks (gold, repeat), those that came when enough
  others had answered (late), and people's labels of a comparison on which a lead has decided (adjudicated).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from labeling.judge.trust.calibration import Calibration
from labeling.views import PEOPLE, ComparisonView, LabelView

LABEL_RULE = (
    "strength s > 0: margin = s, p_chosen = sigmoid(s); else p_chosen = max(p_first, 1 - p_first); "
    "tie: p_chosen = 0.5; ranking of K: its pairs, weight 2/(K(K-1)) each; left out: both_bad, gold, repeat, "
    "late, and people's labels where a lead has decided"
)
Row = dict[str, Any]


def rows_of(
    label: LabelView, comparison: ComparisonView, calibration: Calibration | None = None
) -> list[Row]:
    """The rows that a label gives: one for a pair, K(K-1)/2 for a ranking, none for both_bad.

    `calibration`: the judge's, for a label by one that has it.
    """
    if label.verdict == "both_bad":
        return []
    if label.verdict == "ranking":
        ranks = label.meta["ranks"]
        pairs = list(combinations(range(len(ranks)), 2))
        return [
            make_row(label, comparison, pair, p_first_by_rank(ranks, *pair), 0.0, 1 / len(pairs))
            for pair in pairs
        ]
    p_first, margin = grade(label)
    if calibration and label.verdict == "preference":
        p_first = float(calibration.apply(np.array(p_first)))
    return [make_row(label, comparison, (0, 1), p_first, margin, weight=1.0)]


def p_first_by_rank(ranks: Sequence[int], i: int, j: int) -> float:
    return (1 + (ranks[i] < ranks[j]) - (ranks[i] > ranks[j])) / 2


def grade(label: LabelView) -> tuple[float, float]:
    """(p_first, margin) of a preference or a tie by the rule above."""
    if label.verdict == "tie":
        return 0.5, 0.0
    if label.strength:
        p = 1 / (1 + math.exp(-label.strength))
        return (p if label.p_first > 0.5 else 1 - p), float(label.strength)
    return label.p_first, float(label.meta.get("margin", 0.0))


def make_row(
    label: LabelView,
    comparison: ComparisonView,
    pair: tuple[int, int],
    p_first: float,
    margin: float,
    weight: float,
) -> Row:
    chosen, rejected = pair if p_first >= 0.5 else pair[::-1]
    return {
        "prompt": comparison.prompt,
        "chosen": comparison.sides[chosen][0],
        "rejected": comparison.sides[rejected][0],
        "p_chosen": max(p_first, 1 - p_first),
        "margin": margin,
        "weight": weight,
        "source": "human" if label.kind == "scripted" else label.kind,
        "annotator": label.annotator,
        "comparison_id": comparison.id,
        "group": comparison.group,
    }


def why_left_out(label: LabelView, decided: bool) -> str | None:
    """Why a snapshot does not take a label, None if it does; `decided`: a lead has decided on the comparison."""
    if label.purpose in ("gold", "repeat", "late"):
        return label.purpose
    if decided and label.purpose == "label" and label.kind in PEOPLE:
        return "adjudicated"
    return "both_bad" if label.verdict == "both_bad" else None


class Tally:
    """What a snapshot holds and what it leaves out, for its manifest."""

    def __init__(self, splits: Sequence[str]) -> None:
        self.rows: dict[str, Counter[str]] = {split: Counter() for split in splits}  # by source
        self.annotators: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter(both_bad=0)
        self.ties = self.rankings = self.ranking_pairs = 0
        self.calibrations: dict[str, Calibration] = {}  # that rows were made with, by judge

    def note(self, label: LabelView, rows: int) -> None:
        """Count a label that gave so many rows."""
        if label.verdict == "ranking":
            self.rankings += 1
            self.ranking_pairs += rows

    def count(self, split: str, row: Row) -> None:
        self.rows[split][row["source"]] += 1
        self.annotators[row["annotator"]] += 1
        self.ties += row["p_chosen"] == 0.5

    def figures(self) -> dict[str, Any]:
        return {
            **{split: sources.total() for split, sources in self.rows.items()},
            "sources": {split: dict(sources) for split, sources in self.rows.items()},
            "annotators": dict(self.annotators),
            "ties": self.ties,
            "rankings": {"labels": self.rankings, "pairs": self.ranking_pairs},
            "left_out": dict(self.left_out),
        }
