"""Win rates: length-controlled, by hand and on planted bias; a judge over HTTP and people, through the store."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.cli import run as align
from alignment.demo.stand_in_judge import MODEL, Manner, StandInJudge
from alignment.evaluation.labels import Said, contest, contests
from alignment.evaluation.length_control import fit, length_controlled, sigmoid
from alignment.evaluation.wins import Contest, by_score, figures_of
from alignment.runs import RunFolder
from labeling.store import Store
from labeling.views import NewLabel


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_the_length_controlled_rate_by_hand() -> None:
    # wins of 9 in 10 where our answer is 20 longer, of 6 in 10 where it is 20 shorter: std is 20, x is tanh(1) or
    # -tanh(1), and two free parameters fit two shares exactly
    outcomes = np.array([[1.0]] * 900 + [[0.0]] * 100 + [[1.0]] * 600 + [[0.0]] * 400)
    differences = np.array([[20.0]] * 1000 + [[-20.0]] * 1000)
    rate = length_controlled(outcomes, differences, resamples=100)
    expected = sigmoid(np.array((logit(0.9) + logit(0.6)) / 2))
    assert rate is not None
    assert rate.mean == pytest.approx(expected, abs=1e-4)
    assert rate.low < expected < rate.high
    theta, phi = fit(np.tanh(differences[:, 0] / 20), outcomes[:, 0], np.ones((1, 2000)))[0]
    assert phi * math.tanh(1) == pytest.approx((logit(0.9) - logit(0.6)) / 2, abs=1e-3)
    assert theta == pytest.approx(logit(expected), abs=1e-3)


def test_a_planted_liking_for_length_is_removed_and_a_real_lead_is_kept() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(80, 100, size=(3000, 1))  # ours are longer
    bias = 2 * np.tanh(differences / differences.std())
    for lead, truth in ((0.0, 0.5), (1.0, float(sigmoid(np.array(1.0))))):
        outcomes = (rng.random(differences.shape) < sigmoid(lead + bias)).astype(float)
        rate = length_controlled(outcomes, differences, resamples=200)
        assert rate is not None
        assert outcomes.mean() > truth + 0.08  # what length alone makes of it
        assert rate.mean == pytest.approx(truth, abs=0.03)
        assert rate.low < truth < rate.high


OUTCOMES = st.sampled_from([0.0, 0.5, 1.0, math.nan])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(OUTCOMES, st.integers(-300, 300)), min_size=1, max_size=12))
def test_the_rates_of_the_two_sides_add_up_to_one(said: list[tuple[float, int]]) -> None:
    outcomes, differences = np.array([[o] for o, _ in said]), np.array([[float(d)] for _, d in said])
    ours = length_controlled(outcomes, differences, resamples=5)
    theirs = length_controlled(1 - outcomes, -differences, resamples=5)
    known = differences[~np.isnan(outcomes)]
    assert (ours is None) == (theirs is None) == (len(np.unique(known)) < 2)
    if ours and theirs:
        assert ours.mean + theirs.mean == pytest.approx(1, abs=1e-6)
        assert 0 <= ours.low <= ours.high <= 1


def test_a_policy_that_always_wins_has_a_rate_near_one() -> None:
    rate = length_controlled(np.ones((50, 1)), np.arange(50.0)[:, None], resamples=50)
    assert rate is not None
    assert 0.95 < rate.low <= rate.mean < 1


def test_scores_are_compared_answer_by_answer() -> None:
    found = by_score(
        "reward", "a", "b", (np.array([[2.0, 0.0]]), np.array([[1.0, 0.0]])), (np.array([[5.0, 7.0]]),) * 2
    )
    assert found.outcomes.tolist() == [[1.0, 1.0, 0.0, 0.5]]
    assert found.differences.tolist() == [[0.0, -2.0, 2.0, 0.0]]
    assert figures_of(found, seed=0)["win_by.reward.a.b"] == 0.625


def row(
    number: int, comparison: int | None, *, first: bool = True, empty: tuple[bool, bool] = (False, False)
) -> Any:
    return {
        "one": "a", "other": "b", "row": number, "comparison_id": comparison, "one_is_first": first,
        "lengths": [10 + number, 10], "empty": list(empty),
    }  # fmt: skip


def test_a_contest_by_hand() -> None:
    rows = [
        row(1, 7),  # won
        row(1, 8, first=False),  # the stored first side is b's, and better: lost
        row(2, 9),  # the judge failed
        row(2, 10),  # nobody asked yet
        row(3, None),  # the same text
        row(3, None, empty=(False, True)),
    ]
    said = {
        7: Said(1.0, consistent=1.0, by_order=(1.0, 1.0)),
        8: Said(1.0, consistent=0.0, by_order=(1.0, 0.0)),
        9: Said(math.nan, failed=True),
    }
    found = contest("judge:x", "a", "b", rows, said)
    np.testing.assert_array_equal(found.outcomes, [[1, 0], [math.nan, math.nan], [0.5, 1]])
    assert found.differences.tolist() == [[1, 1], [2, 2], [3, 3]]
    # of b, stored first: shown first it wins, shown second it loses. So a shown second loses, shown first wins
    assert found.counts == {
        "settled": 2, "labelled": 2, "failed": 1, "waiting": 1,
        "order_consistent": 0.5, "shown_first": 1.0, "shown_second": 0.5,
    }  # fmt: skip
    assert figures_of(found, seed=0)["win_by.judge:x.a.b"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert list(contests(rows, {"judge:x": said, "people": {}})) != []
    assert [c.rater for c in contests(rows, {"judge:x": said, "people": {}})] == ["judge:x"]


def test_without_a_verdict_there_is_no_rate() -> None:
    nothing = Contest("people", "a", "b", np.array([[math.nan]]), np.array([[1.0]]), {"waiting": 1})
    assert figures_of(nothing, seed=0) == {"win_by.people.a.b.waiting": 1}


@pytest.fixture
def arguments(tmp_path: Path, tiny_model: Path, shaken_model: Path) -> list[str]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"the inn {i}"}) + "\n" for i in range(12)))
    return [
        "eval", f"run={tmp_path}/run", f"prompts={prompts}", f"policies.base={tiny_model}",
        f"policies.tuned={shaken_model}", "samples=2", "sampling.max_new_tokens=12",
        f"comparisons.store={tmp_path}/eval.db",
    ]  # fmt: skip


def capitals(_: str, answer: str) -> float:
    return float(sum(c in "AEIOURT" for c in answer))


def test_a_judge_and_people_compare_through_the_store(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert align([*arguments, "reward=length:words"]) == 0
    assert "align eval --labels" in capsys.readouterr().err.replace("\n", " ")
    run, store = RunFolder(tmp_path / "run"), Store.open(str(tmp_path / "eval.db"))
    rows = run.rows("comparisons.jsonl")
    ids = {row["comparison_id"] for row in rows} - {None}
    assert len(rows) == 24
    assert store.counts()["comparisons"] == len(ids) == run.summary["comparisons.added"]
    assert align(["eval", "--labels", str(run.path)]) == 1
    assert "nobody has labelled" in capsys.readouterr().err

    impartial = Manner(noise=0, first_bias=0, garbage=0)
    with StandInJudge(capitals, manner=impartial) as server:
        judge = [
            "judge",
            "run",
            "--store",
            f"{tmp_path}/eval.db",
            f"base_url={server.base_url}",
            f"model={MODEL}",
        ]
        assert align(judge) == 0
    capsys.readouterr()
    assert align(["eval", "--labels", str(run.path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    key = f"win_by.judge:{MODEL}.tuned.base"
    answers: dict[str, list[str]] = {"base": [], "tuned": []}
    for answer in run.rows("answers.jsonl"):
        answers[answer["policy"]].append(answer["answer"])
    assert any(a != b for a, b in zip(answers["base"], answers["tuned"], strict=True))
    better = [
        np.sign(capitals("", t) - capitals("", b))
        for t, b in zip(answers["tuned"], answers["base"], strict=True)
    ]
    assert figures[key] == pytest.approx((np.mean(better) + 1) / 2)
    assert figures[f"{key}.low"] <= figures[key] <= figures[f"{key}.high"]
    assert 0 < figures[f"{key}.length_controlled"] < 1
    assert figures[f"{key}.labelled"] + figures[f"{key}.settled"] == 24
    assert figures[f"{key}.waiting"] == figures[f"{key}.failed"] == 0
    # an impartial judge says the same of either order, but for what it finds equal
    assert figures[f"{key}.shown_first"] >= figures[f"{key}.shown_second"]
    assert figures["win_by.reward.tuned.base"] == run.summary["win_by.reward.tuned.base"]

    person = store.annotator("ann", "human")
    for comparison in sorted(ids):
        first = next(row["one_is_first"] for row in rows if row["comparison_id"] == comparison)
        p = 1.0 if first else 0.0  # always for the tuned policy
        store.add_label(NewLabel(comparison, person, "preference", p, [0, 1], f"key-{comparison}"))
    assert align(["eval", "--labels", str(run.path)]) == 0
    assert run.summary[key] == figures[key]
    settled = run.summary["win_by.people.tuned.base.settled"]
    assert run.summary["win_by.people.tuned.base"] == pytest.approx((len(ids) + settled / 2) / 24)
    script = store.annotator("scripted-bob", "scripted")
    store.add_label(NewLabel(min(ids), script, "tie", 0.5, [0, 1], "bob"))
    assert align(["eval", "--labels", str(run.path)]) == 0
    assert "win_by.people.tuned.base" not in run.summary  # never passed off as people's alone
    mixed = run.summary["win_by.people and scripted annotators.tuned.base"]
    assert mixed == pytest.approx((len(ids) - 0.25 + settled / 2) / 24)
    page = run.report.read_text()
    assert f"judge:{MODEL}" in page
    assert "length-controlled" in page


@pytest.mark.slow
def test_a_judge_that_likes_what_comes_first_is_found_out(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert align(arguments) == 0
    with StandInJudge(lambda *_: 0.0, manner=Manner(noise=0, first_bias=3, garbage=0.3)) as server:
        judge = [f"base_url={server.base_url}", f"model={MODEL}"]
        assert align(["judge", "run", "--store", f"{tmp_path}/eval.db", *judge]) == 0
    assert align(["eval", "--labels", f"{tmp_path}/run"]) == 0
    figures, key = RunFolder(tmp_path / "run").summary, f"win_by.judge:{MODEL}.tuned.base"
    assert (figures[f"{key}.shown_first"], figures[f"{key}.shown_second"]) == (1, 0)
    assert figures[f"{key}.order_consistent"] == 0
    assert figures[key] == 0.5  # both orders together are fair
    assert figures[f"{key}.failed"] > 0
    capsys.readouterr()


def test_wrong_use_of_comparisons(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(words: list[str], code: int) -> str:
        assert align(words) == code
        return " ".join(capsys.readouterr().err.split())

    alone = [one for one in arguments if not one.startswith("policies.tuned")]
    assert "comparisons need two policies" in says(alone, 2)
    assert "--labels takes one run folder" in says(["eval", "--labels"], 2)
    assert "has no comparisons" in says(["eval", "--labels", str(tmp_path / "nowhere")], 1)
    assert "comparisons.pairs" in says([*arguments, "comparisons.pairs=some"], 2)
    shown = (align([*arguments, "--dry-run"]), capsys.readouterr().out)
    assert (shown[0], "comparisons: 24" in shown[1]) == (0, True)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": [{"role": "assistant", "content": "hello"}]}\n')
    assert "row 1: the prompt does not end in a user turn" in says(arguments, 1)
    assert not (tmp_path / "run").exists()
