"""The judge card and calibration: figures worked by hand, edges, and what becomes of a snapshot."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.demo.stand_in_judge import Faults, Manner, StandInJudge
from labeling.errors import LabelingError
from labeling.judge.job import run_judge
from labeling.judge.judgements import Judged, record
from labeling.judge.trust.calibration import Calibration, cross_fitted, fit, store_calibration
from labeling.judge.trust.card import judge_card
from labeling.judge.trust.card_text import card_lines, card_markdown, reliability_svg
from labeling.judge.trust.overlap import language_of, summed
from labeling.judge.verdict import Verdict
from labeling.snapshot import take_snapshot
from labeling.views import NewComparison, NewCompletion, NewLabel
from tests.labeling.judging import CLEAR, config, fill, politeness

# the judge's p_first, whether its orders agree, and what people say (1 first, -1 second, 0 tie)
CASES = [
    (0.9, True, [1]),
    (0.8, True, [1, 1]),
    (0.7, False, [-1]),
    (0.1, True, [-1, -1, 1]),
    (0.5, True, [1]),  # the judge's tie
    (0.8, True, [0]),  # people's tie
    (None, None, [1]),  # the judge failed
    (0.6, True, []),  # nobody labelled it
    (0.6, True, [1, -1]),  # no majority
]


def judged(store, cases=CASES, lengths=(30, 10)):
    """Judgements as the job would write them, and people's labels."""
    sides = [
        NewCompletion([{"role": "assistant", "content": "x" * n}], model)
        for n, model in zip(lengths, "mn", strict=True)
    ]
    added = store.add_comparisons(
        NewComparison([{"role": "user", "content": f"question {i}"}], sides) for i in range(len(cases))
    )
    judge = store.annotator("judge:m", "judge", {"model": "m", "endpoints": []})
    people = [store.annotator(f"person-{i}", "human") for i in range(3)]
    judgements, labels = [], []
    for one, (p, consistent, said) in zip(added, cases, strict=True):
        i = one.comparison_id
        outcome = "refused" if p is None else "tie" if p == 0.5 else "verdict"
        verdict = Verdict(outcome, p, consistent, confidence=None if p is None else max(p, 1 - p))
        label = "A" if p is not None and p > 0.5 else "B"
        swapped = label if consistent is False else {"A": "B", "B": "A"}[label]
        readings = [{"order": [0, 1], "label": label}, {"order": [1, 0], "label": swapped}]
        detail = {"readings": readings if outcome == "verdict" else []}
        judgements.append(Judged(i, judge, verdict, [[0, 1], [1, 0]], [f"k{i}"], detail))
        labels += [
            NewLabel(i, person, "preference" if side else "tie", 0.5 + side / 2, [0, 1], f"p{i}-{person}")
            for person, side in zip(people, said, strict=False)
        ]
    with store.begin() as session:
        record(session, judgements)
    store.add_labels(labels)
    return judge


def test_figures_worked_by_hand(store):
    judged(store)
    card, _ = judge_card(store)
    value = {name: figure.value for name, figure in card.figures.items()}
    of = {name: figure.of for name, figure in card.figures.items()}
    assert (card.judgements, card.compared) == (9, 6)
    # most people say the same on 7; the judge says it on three of them
    assert (value["agreement"], of["agreement"]) == (pytest.approx(3 / 7), 7)
    # both take a side on four: right, right, wrong, right
    assert (value["accuracy"], of["accuracy"]) == (0.75, 4)
    # of the four comparisons' eight replies one of the flipped two is right
    assert (value["accuracy_one_order"], of["accuracy_one_order"]) == (7 / 8, 8)
    # (0.1^2 + 0.2^2 + 0.7^2 + 0.1^2 + 0.5^2) / 5
    assert (value["brier"], of["brier"]) == (pytest.approx(0.16), 5)
    # |0.9 - 1| twice (in two bins: 0.9 is both 0.9 and 1 - 0.1), |0.8 - 1|, |0.7 - 0|, |0.5 - 0.5|
    assert value["ece"] == pytest.approx((0.1 + 0.1 + 0.2 + 0.7 + 0) / 5)
    # six held with people's majority: judge 1 1 1 -1 0 1, people 1 1 -1 -1 1 0: 3/6 alike; by chance
    # (4 * 3 + 1 * 2 + 1 * 1) / 36
    chance = 15 / 36
    assert value["kappa"] == pytest.approx((0.5 - chance) / (1 - chance))
    assert (value["order_flips"], of["order_flips"]) == (pytest.approx(1 / 8), 8)
    # side 0 is the longer one, and by the judge's own model
    assert value["prefers_longer"] == value["prefers_own"] == 0.75
    assert value["people_prefer_longer"] == value["people_prefer_own"] == 0.5
    assert (card.outcomes["refused"], card.outcomes["tie"], card.outcomes["verdict"]) == (1, 1, 7)
    # pairs of people: 1 of 1, 1 of 3, 0 of 1
    assert card.ceiling["agreement"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert all(f.low <= f.value <= f.high for f in card.figures.values() if f.value is not None)


def test_what_people_say_together():
    assert (summed([1, 1, -1]).side, summed([1, 1, -1]).share) == (1.0, pytest.approx(2 / 3))
    assert summed([1, 0, 0]).side == 0.0
    assert np.isnan(summed([1, -1]).side)
    assert np.isnan(summed([1]).agreeing)


def test_languages():
    assert language_of([{"role": "user", "content": "请写一封信 to Bob"}]) == "zh"
    assert language_of([{"role": "user", "content": "Write a letter. 你好"}]) == "other"
    assert language_of([{"role": "user", "content": "123"}]) == "other"


def test_the_interval_widens_with_fewer_prompts(sqlite_store, tmp_path):
    from labeling.store import Store

    judged(sqlite_store, [(0.9 if i % 3 else 0.2, True, [1]) for i in range(200)])
    few = Store.open(str(tmp_path / "few.db"))
    judged(few, [(0.9 if i % 3 else 0.2, True, [1]) for i in range(20)])
    wide, narrow = (judge_card(s)[0].figures["accuracy"] for s in (few, sqlite_store))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low) > 0.1


class TestCalibration:
    def test_an_overconfident_judge_is_cooled_to_how_often_it_is_right(self):
        p = np.array([0.95] * 100 + [0.05] * 100)
        target = np.array(([1.0] * 75 + [0.0] * 25) + ([0.0] * 75 + [1.0] * 25))
        for kind in ("temperature", "isotonic"):
            assert fit(kind, p, target).apply(np.array([0.95, 0.05, 0.5])) == pytest.approx(
                [0.75, 0.25, 0.5], abs=3e-3
            )

    def test_temperature_of_a_calibrated_judge_is_1(self):
        drawn = np.random.default_rng(0)
        p = drawn.uniform(0.02, 0.98, 20_000)
        target = (drawn.random(20_000) < p).astype(float)
        assert fit("temperature", p, target).temperature == pytest.approx(1.0, abs=0.05)

    def test_isotonic_pools_what_falls(self):
        # 0.6 -> 1, 0.7 -> 0, 0.9 -> 1: the first two are pooled to a half
        p = np.array([0.6] * 10 + [0.7] * 10 + [0.9] * 10)
        target = np.array([1.0] * 10 + [0.0] * 10 + [1.0] * 10)
        mapped = fit("isotonic", p, target).apply(np.array([0.6, 0.7, 0.9]))
        assert mapped == pytest.approx([0.5, 0.5, 1.0])

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 100).map(lambda n: n / 100), st.sampled_from([0.0, 0.5, 1.0])),
            min_size=20,
            max_size=60,
        ),
        st.sampled_from(["temperature", "isotonic"]),
    )
    def test_a_calibration_is_even_rises_and_keeps_its_meaning_in_the_store(self, cases, kind):
        p, target = (np.array(column) for column in zip(*cases, strict=True))
        calibration = fit(kind, p, target)
        grid = np.linspace(0, 1, 21)
        mapped = calibration.apply(grid)
        assert mapped + mapped[::-1] == pytest.approx(np.ones(21), abs=1e-6)
        if kind == "isotonic":
            assert (np.diff(mapped) >= -1e-9).all()
            assert mapped.min() >= 0
        kept = Calibration.from_meta(json.loads(json.dumps(calibration.as_meta())))
        assert kept == calibration

    def test_too_few_to_fit(self):
        with pytest.raises(LabelingError, match="a calibration needs 20 comparisons"):
            fit("isotonic", np.ones(19), np.ones(19))

    def test_cross_fitting_leaves_a_prompt_out_of_its_own_fit(self):
        """One prompt that says the opposite of all others is mapped as the others say."""
        groups = np.repeat(np.arange(10), 10)
        target = np.where(groups == 3, 0.0, 1.0)
        mapped = cross_fitted("isotonic", np.full(100, 0.8), target, groups, folds=10)
        assert mapped[groups == 3] == pytest.approx(np.ones(10))
        assert mapped[groups != 3] == pytest.approx(np.full(90, 80 / 90))


def test_a_snapshot_applies_the_stored_calibration_and_says_so(sqlite_store, tmp_path):
    cases = [(0.95, True, [1 if i % 4 else -1]) for i in range(40)]
    judged(sqlite_store, cases)
    before = take_snapshot(sqlite_store, tmp_path / "s", test_share=0)
    card, calibration = judge_card(sqlite_store, calibrate="isotonic")
    store_calibration(sqlite_store, card.judge, calibration)
    after = take_snapshot(sqlite_store, tmp_path / "s", test_share=0)
    rows = [
        row for row in pq.read_table(after.path / "train.parquet").to_pylist() if row["source"] == "judge"
    ]
    assert {round(row["p_chosen"], 6) for row in rows} == {0.75}
    manifest = json.loads((after.path / "manifest.json").read_text())
    assert manifest["calibrations"] == {"judge:m": calibration.as_meta()}
    assert before.hash != after.hash
    assert card.figures["ece_calibrated"].value < card.figures["ece"].value
    assert judge_card(sqlite_store)[0].calibration == calibration.as_meta()
    store_calibration(sqlite_store, card.judge, None)
    assert take_snapshot(sqlite_store, tmp_path / "s", test_share=0).hash == before.hash


def test_a_real_run_against_scripted_people(sqlite_store):
    fill(sqlite_store, 80)
    person = sqlite_store.annotator("scripted-ann", "scripted")
    sqlite_store.add_labels(
        NewLabel(i, person, "preference", float(i % 2 if i % 10 else 1 - i % 2), [0, 1], f"s{i}")
        for i in range(1, 81)
    )
    faults = Faults(refused=0.05)
    with StandInJudge(politeness, manner=Manner(garbage=0.05, first_bias=2.0), faults=faults) as server:
        report = run_judge(sqlite_store, config(server, only="all"))
    card, _ = judge_card(sqlite_store, calibrate="temperature")
    assert {k: n for k, n in card.outcomes.items() if n} == report.outcomes
    assert card.routed == report.routed
    assert card.calls == {"answered": 160}
    assert card.figures["prefers_first_shown"].low > 0.5
    assert 0.7 < card.figures["accuracy"].value < 1
    text = card_markdown(card)
    assert "| accuracy | " in text
    assert "reliability.svg" in text
    assert reliability_svg(card).startswith("<svg")
    assert card_lines(card)[0].startswith("judge:stand-in-judge: 80 pairs judged")
    json.dumps(card.as_dict(), allow_nan=False)


def test_which_judge(sqlite_store):
    with pytest.raises(LabelingError, match="no judge has labelled"):
        judge_card(sqlite_store)
    judged(sqlite_store)
    sqlite_store.annotator("judge:other", "judge")
    with pytest.raises(
        LabelingError, match=r"say which; in the store \(--judge NAME\): judge:m, judge:other"
    ):
        judge_card(sqlite_store)
    with pytest.raises(LabelingError, match="there is no judge 'x'"):
        judge_card(sqlite_store, "x")
    with pytest.raises(LabelingError, match="judge:other has judged no pair"):
        judge_card(sqlite_store, "other")
    assert judge_card(sqlite_store, "m")[0].judgements == 9


def test_a_card_without_people(sqlite_store):
    fill(sqlite_store, 3)
    with StandInJudge(politeness, manner=CLEAR) as server:
        run_judge(sqlite_store, config(server))
    card, _ = judge_card(sqlite_store)
    assert card.compared == 0
    assert card.figures["accuracy"].value is None
    assert "Nothing was labelled by two people" in card_markdown(card)
    reliability_svg(card)
    with pytest.raises(LabelingError, match="a calibration needs 20"):
        judge_card(sqlite_store, calibrate="isotonic")
