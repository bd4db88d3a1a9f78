"""The figures of the dashboard against numbers worked by hand, on labels that are given as columns."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from labeling.agreement import judges_against_people, people_agreement
from labeling.figures.pairs import kappas
from labeling.figures.quality import gold_accuracy, position_bias, self_consistency
from labeling.figures.rates import Rate
from labeling.figures.strength import strength_histogram
from labeling.figures.table import PURPOSES, VERDICTS, LabelTable, opinions
from labeling.figures.throughput import paces, per_day

NAMES = {1: "ann", 2: "ben", 3: "cat", 9: "judge"}
KINDS = {1: "human", 2: "human", 3: "scripted", 9: "judge"}


def table(*rows: dict) -> LabelTable:
    """Labels with the given columns; the rest is a strong preference for the first side, shown first."""
    usual = {"comparison": 1, "annotator": 1, "verdict": "preference", "purpose": "label", "p": 1.0,
             "strength": 3, "left": 0, "seconds": np.nan, "time": "2026-05-01T12:00", "ranks": None}  # fmt: skip
    full = [usual | row for row in rows]
    full.sort(key=lambda row: (row["comparison"], row["annotator"]))

    def column(name: str, dtype: str) -> np.ndarray:
        return np.array([row[name] for row in full], dtype=dtype)

    ranks = np.empty(len(full), dtype=object)
    ranks[:] = [row["ranks"] for row in full]
    return LabelTable(
        np.arange(len(full)),
        column("comparison", "int64"),
        column("annotator", "int64"),
        np.array([VERDICTS.index(row["verdict"]) for row in full], dtype="int64"),
        np.array([PURPOSES.index(row["purpose"]) for row in full], dtype="int64"),
        column("p", "float64"),
        column("strength", "int64"),
        column("left", "int64"),
        column("seconds", "float64"),
        column("time", "datetime64[s]"),
        ranks,
        NAMES,
        KINDS,
    )


def said(comparison: int, annotator: int, p: float, **more: object) -> dict:
    return {"comparison": comparison, "annotator": annotator, "p": p} | more


def test_throughput_counts_people_by_day():
    labels = table(
        said(1, 1, 1), said(2, 1, 1, purpose="repeat"), said(3, 1, 1, time="2026-05-02T00:00"),
        said(1, 2, 1), said(1, 9, 1),
    )  # fmt: skip
    assert [(one.day, one.person, one.labels) for one in per_day(labels)] == [
        (date(2026, 5, 1), "ann", 2), (date(2026, 5, 1), "ben", 1), (date(2026, 5, 2), "ann", 1),
    ]  # fmt: skip


def test_time_per_item_is_median_and_quartiles():
    seconds = [10, 20, 30, 40, 1000]
    labels = table(*(said(i, 1, 1, seconds=s) for i, s in enumerate(seconds)), said(9, 2, 1))
    (ann,) = paces(labels)  # ben's label does not say how long it took
    assert (ann.person, ann.timed, ann.low, ann.median, ann.high) == ("ann", 5, 20, 30, 40)


def test_wilson_interval_by_hand():
    # Brown, Cai and DasGupta (2001): 0 of 10 gives [0, 0.278]
    assert Rate(0, 10).interval == pytest.approx((0.0, 0.2775), abs=5e-4)
    assert Rate(8, 10).interval == pytest.approx((0.4902, 0.9433), abs=5e-4)
    assert (Rate(0, 0).share, Rate(0, 0).interval) == (None, None)


def test_accuracy_on_gold():
    gold = {1: ("preference", 1.0), 2: ("tie", 0.5), 3: ("both_bad", 0.5), 4: ("preference", 0.1)}
    labels = table(
        said(1, 1, 0.8, purpose="gold"),  # right, however strongly
        said(2, 1, 0.5, verdict="tie", strength=0, purpose="gold"),  # right
        said(3, 1, 0.5, verdict="tie", strength=0, purpose="gold"),  # wrong
        said(4, 1, 0.9, purpose="gold"),  # wrong
        said(4, 2, 0.0),  # right
        said(5, 2, 1.0),  # no gold there
        said(1, 2, 0.0, purpose="adjudicate"),  # the lead's own decision is no test
        said(1, 9, 0.0),  # a judge is no person
    )
    assert gold_accuracy(labels, gold) == {"": Rate(3, 5), "ann": Rate(2, 4), "ben": Rate(1, 1)}
    assert gold_accuracy(labels, {}) == {}


def test_self_consistency_on_repeats():
    again = {"purpose": "repeat"}
    labels = table(
        said(1, 1, 1.0), said(1, 1, 0.7, **again),  # the same side
        said(2, 1, 1.0), said(2, 1, 0.0, **again),  # the other side
        said(3, 2, 0.5, verdict="tie"), said(3, 2, 0.5, verdict="both_bad", **again),
        said(4, 2, 1.0), said(4, 1, 1.0, **again),  # nothing of ann's to compare with
        said(5, 1, 0.5, verdict="ranking", ranks=[1, 2, 2]),
        said(5, 1, 0.5, verdict="ranking", ranks=[1, 3, 2], **again),  # 2 of 3 pairs
    )  # fmt: skip
    assert self_consistency(labels) == {"": Rate(3, 6), "ann": Rate(3, 5), "ben": Rate(0, 1)}


def test_position_bias_counts_preferences_for_the_side_shown_first():
    labels = table(
        said(1, 1, 1.0, left=0), said(2, 1, 0.0, left=1), said(3, 1, 1.0, left=1),
        said(4, 1, 0.5, verdict="tie"), said(5, 2, 0.0, left=0), said(6, 2, 1.0, left=-1),
    )  # fmt: skip
    assert position_bias(labels) == {"": Rate(2, 4), "ann": Rate(2, 3), "ben": Rate(0, 1)}


def test_the_strength_histogram_is_as_shown():
    labels = table(
        said(1, 1, 1.0, strength=3, left=0),  # A much better
        said(2, 1, 1.0, strength=1, left=1),  # stored first, shown second: B slightly better
        said(3, 1, 0.5, verdict="tie", strength=0),
        said(4, 1, 0.0, strength=2, left=1),  # A better
        said(5, 1, 0.5, verdict="both_bad", strength=0),
        said(6, 1, 1.0, strength=0),  # says nothing of strength
    )
    assert list(strength_histogram(labels).values()) == [1, 1, 0, 1, 1, 0, 0, 1]


def test_kappa_of_the_textbook_example():
    """Twenty times both say A, fifteen times both B, ten and five times they differ: 0.40 (Cohen's worked example)."""
    counts = {(1.0, 1.0): 20, (1.0, 0.0): 5, (0.0, 1.0): 10, (0.0, 0.0): 15}
    both = [pair for pair, times in counts.items() for _ in range(times)]
    rows = [said(i, who, p) for i, pair in enumerate(both) for who, p in zip((1, 2), pair, strict=True)]
    (pair,) = kappas(table(*rows))
    assert (pair.items, pair.agreement) == (50, pytest.approx(0.7))
    assert pair.kappa == pytest.approx(0.4)


def test_kappa_of_every_two_people_is_over_what_both_answered():
    rng = np.random.default_rng(0)
    rows, answers = [], {1: {}, 2: {}, 3: {}}
    for comparison in range(60):
        for annotator in rng.permutation([1, 2, 3])[: rng.integers(2, 4)]:
            value = int(rng.integers(0, 4))
            answers[int(annotator)][comparison] = value
            verdict = ("preference", "preference", "tie", "both_bad")[value]
            rows.append(said(comparison, int(annotator), (1.0, 0.0, 0.5, 0.5)[value], verdict=verdict))
    found = {(pair.first, pair.second): pair for pair in kappas(table(*rows))}
    assert set(found) == {("ann", "ben"), ("ann", "cat"), ("ben", "cat")}
    for (first, second), pair in found.items():
        one, two = (answers[{name: i for i, name in NAMES.items()}[who]] for who in (first, second))
        both = sorted(one.keys() & two.keys())
        assert pair.items == len(both)
        by_chance = sum(
            np.mean([one[i] == value for i in both]) * np.mean([two[i] == value for i in both])
            for value in range(4)
        )
        agreement = np.mean([one[i] == two[i] for i in both])
        assert pair.kappa == pytest.approx((agreement - by_chance) / (1 - by_chance))


def test_kappa_says_nothing_where_both_always_say_the_same():
    (pair,) = kappas(table(said(1, 1, 1.0), said(1, 2, 1.0)))
    assert (pair.agreement, pair.kappa) == (1.0, None)
    assert kappas(table(said(1, 1, 1.0), said(1, 1, 1.0, purpose="repeat"))) == []


def test_a_ranking_speaks_of_each_pair():
    ranked = {"verdict": "ranking", "p": 0.5}
    spoken = opinions(table({"ranks": [1, 2, 2]} | ranked, {"annotator": 2, "ranks": [2, 1, 3]} | ranked))
    assert spoken.unit.tolist() == [101, 101, 102, 102, 112, 112]
    assert spoken.value.tolist() == [0, 1, 0, 0, 2, 0]


def test_agreement_among_people_is_on_first_and_own_answers():
    labels = table(
        said(1, 1, 1.0), said(1, 2, 1.0), said(2, 1, 0.0, strength=1), said(2, 2, 0.0, strength=3),
        said(3, 1, 1.0), said(3, 2, 0.0, strength=1),
        said(3, 3, 0.0, purpose="adjudicate"), said(1, 1, 0.0, purpose="repeat"), said(1, 9, 0.0),
    )  # fmt: skip
    found = people_agreement(labels)
    assert found.comparisons == 3
    # Items ff, ss, fs: totals 3 and 3; alpha = 1 - 5*2/(36-18)
    assert found.alpha == pytest.approx(1 - 10 / 18)
    assert found.fleiss == pytest.approx((2 / 3 - 1 / 2) / (1 / 2))
    # Items (3,3), (-1,-3), (3,-1): totals 1, 2, 3 of -3, -1, 3 stand at .5, 2, 4.5; squares 2.25, 6.25, 16.
    # Observed 2*(2.25+6.25); expected 2*(1*2*2.25 + 2*3*6.25 + 1*3*16) = 180
    assert found.ordinal == pytest.approx(1 - 5 * 17 / 180)
    assert found.interval is not None
    assert found.interval[0] <= found.alpha <= found.interval[1]


def test_the_leads_decision_stands_for_the_people():
    labels = table(
        said(1, 1, 1.0), said(1, 2, 1.0), said(1, 3, 0.0, purpose="adjudicate"), said(1, 9, 0.2),
        said(2, 1, 1.0), said(2, 2, 0.0, purpose="late"), said(2, 9, 0.9),
    )  # fmt: skip
    found = judges_against_people(labels)
    assert (found.compared, found.agreed) == (2, 2)
