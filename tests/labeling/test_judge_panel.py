"""Several judges, a judge before its own answers, and what goes to people."""

from __future__ import annotations

import pytest

from alignment.demo.stand_in_judge import MODEL, Faults, Manner, StandInJudge
from labeling.judge.config import JudgeConfig, Member, Routing
from labeling.judge.job import run_judge
from labeling.judge.panel import agree_on, is_split
from labeling.judge.plan import plan_judge
from labeling.judge.routing import why_people
from labeling.judge.verdict import Verdict
from labeling.queue.claim import claim
from labeling.queue.settings import QueueSettings, save_settings
from labeling.schema import Comparison, Judgement
from labeling.views import NewCompletion
from tests.labeling.judging import CLEAR, config, fill, politeness, rows


def held(p, consistent=True):
    return Verdict("verdict", p_first=p, order_consistent=consistent, confidence=max(p, 1 - p))


FAILED = Verdict("refused", reason="no")


class TestAgreeing:
    def test_mean_and_majority(self):
        members = [(held(0.9), 1.0), (held(0.4), 1.0), (held(0.3), 1.0)]
        assert agree_on(members, "mean", 0.05).p_first == pytest.approx(1.6 / 3)
        assert agree_on(members, "majority", 0.05).p_first == pytest.approx(1 / 3)

    def test_weights(self):
        members = [(held(0.9), 3.0), (held(0.1), 1.0)]
        assert agree_on(members, "mean", 0.05).p_first == pytest.approx(0.7)
        assert agree_on(members, "majority", 0.05).p_first == pytest.approx(0.75)

    def test_those_that_failed_do_not_count_unless_they_are_half(self):
        assert agree_on([(held(0.9), 2.0), (FAILED, 1.0)], "mean", 0.05).p_first == 0.9
        lost = agree_on([(held(0.9), 1.0), (FAILED, 1.0)], "mean", 0.05)
        assert (lost.outcome, lost.reason) == ("refused", "1 of 2 judges failed: no")

    def test_rankings(self):
        def ranking(*ranks):
            return Verdict("verdict", ranks=ranks, confidence=1.0)

        members = [(ranking(1, 2, 3), 1.0), (ranking(1, 3, 2), 1.0), (ranking(2, 1, 3), 1.0)]
        assert agree_on(members, "mean", 0.05).ranks == (1, 2, 3)

    def test_split(self):
        assert is_split([held(0.9), held(0.2)])
        assert not is_split([held(0.9), held(0.8), Verdict("tie", p_first=0.5), FAILED])


@pytest.mark.parametrize(
    ("verdict", "split", "why"),
    [
        (held(0.9), False, ""),
        (held(0.55), False, "unsure"),
        (held(0.9, consistent=False), False, "order"),
        (held(0.9), True, "split"),
        (FAILED, False, "failed"),
    ],
)
def test_why_people_are_to_look(verdict, split, why):
    assert why_people(verdict, Routing(), split=split) == why
    none = Routing(below=0.5, order_inconsistent=False, failed=False, split=False)
    assert why_people(verdict, none, split=split) == ""


def test_two_servers_one_panel(sqlite_store):
    fill(sqlite_store, 8)
    with (
        StandInJudge(politeness, manner=CLEAR) as first,
        StandInJudge(lambda _, text: -politeness(_, text), manner=CLEAR) as contrary,
    ):
        judge = config(first, weight=3.0, panel=[Member(model=MODEL, base_url=contrary.base_url)])
        plan = plan_judge(sqlite_store, judge)
        report = run_judge(sqlite_store, judge)
        again = run_judge(sqlite_store, judge.model_copy(update={"only": "all"}))
    assert plan.calls == report.calls.attempts == 32
    assert (report.outcomes, report.labels) == ({"verdict": 8}, 8)
    assert report.routed == {"split": 8}
    assert again.comparisons == 0
    labels = list(sqlite_store.effective_labels())
    assert {label.annotator for label in labels} == {"judge:panel"}
    good = (3 * 0.9602 + 0.0398) / 4  # 0.9602 is what the stand-in is sure of, see test_judge_job
    assert labels[0].p_first == pytest.approx(good, abs=1e-3)
    judgements = rows(sqlite_store, Judgement)
    assert len(judgements) == 24  # each member's and the panel's
    assert sum(one.label_id is not None for one in judgements) == 8


def test_a_judge_leaves_its_own_answers_alone_unless_asked(sqlite_store):
    fill(sqlite_store, 1)
    sides = [
        NewCompletion([{"role": "assistant", "content": text}], model)
        for text, model in (("please come", MODEL), ("come", "other"))
    ]
    sqlite_store.add_comparison([{"role": "user", "content": "Invite."}], sides)
    with StandInJudge(politeness) as server:
        plan = plan_judge(sqlite_store, config(server))
        report = run_judge(sqlite_store, config(server))
        assert (plan.comparisons, plan.own) == (report.labels, report.own) == (1, 1)
        assert run_judge(sqlite_store, config(server, judge_own=True)).labels == 1


def test_on_a_panel_the_others_judge_its_answers(sqlite_store):
    sides = [
        NewCompletion([{"role": "assistant", "content": text}], model)
        for text, model in (("please come", "org/Vain"), ("come", "other"))
    ]
    sqlite_store.add_comparison([{"role": "user", "content": "Invite."}], sides)
    with StandInJudge(politeness, manner=CLEAR) as server:
        judge = JudgeConfig(
            base_url="http://127.0.0.1:9/v1",
            model="Vain",
            panel=[Member(model=MODEL, base_url=server.base_url)],
        )
        assert run_judge(sqlite_store, judge.model_copy(update={"model": "ORG/vain"})).labels == 1


def test_what_the_judge_is_unsure_of_comes_first_to_people_and_blind(sqlite_store):
    fill(sqlite_store, 12)
    save_settings(sqlite_store, QueueSettings(show_ai_share=1.0))
    faults = Faults(refused=0.3)
    with StandInJudge(politeness, manner=Manner(noise=0, garbage=0), faults=faults, seed=3) as server:
        report = run_judge(sqlite_store, config(server))
    failed = {j.comparison_id for j in rows(sqlite_store, Judgement) if j.routed == "failed"}
    assert 0 < report.routed["failed"] == len(failed) < 12
    raised = {one.id for one in rows(sqlite_store, Comparison) if one.priority == 1.0}
    assert raised == {j.comparison_id for j in rows(sqlite_store, Judgement) if j.routed}
    ann = sqlite_store.annotator("ann", "human")
    assigned = claim(sqlite_store, ann)
    assert assigned.comparison.id in raised
    assert assigned.arm == ""  # though every item is to show the judge's opinion
