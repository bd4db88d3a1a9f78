"""`align eval --compare`: several evaluations as one page, from what they saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from alignment.cli import run as align
from alignment.evaluation.compare import combine, compare, label_policies, load_evaluation, run_names
from alignment.runs import RunFolder

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, shaken_model: Path) -> Path:
    """Evaluations a and b. Both have the same base; what they call tuned is not the same model."""
    folder = tmp_path_factory.mktemp("runs")
    prompts = folder / "prompts.jsonl"
    rows = [{"prompt": f"the inn {i}", "reference": "by the river"} for i in range(5)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for run, tuned, limit in (("a", shaken_model, 5), ("b", tiny_model, 4)):
        arguments = [
            "eval", f"run={folder}/{run}", f"prompts={prompts}", f"policies.base={tiny_model}", f"limit={limit}",
            f"policies.tuned={tuned}", "sampling.max_new_tokens=8", "metrics=[f1, chrf]", "reward=length:characters",
            "batch_size=4",
        ]  # fmt: skip
        assert align(arguments) == 0
    return folder


def altered(folder: Path, to: Path, **policies: str) -> Path:
    """A copy of an evaluation in which policies say something else to everything."""
    shutil.copytree(folder, to)
    rows = RunFolder(to).rows("answers.jsonl")
    for row in rows:
        text = policies.get(row["policy"], row["answer"])
        row |= {"answer": text, "reward": float(len(text))}
    (to / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return to


def test_policies_of_one_name_are_told_apart_and_the_same_one_is_shown_once(
    runs: Path, tmp_path: Path
) -> None:
    a, again = load_evaluation(runs / "a", "a"), load_evaluation(runs / "a", "again")
    other = load_evaluation(altered(runs / "a", tmp_path / "c", tuned="no"), "c")
    assert combine([a, again]).labels == ["base", "tuned"]
    assert combine([a, other]).labels == ["base", "tuned (a)", "tuned (c)"]
    labels = label_policies([a, other, again])
    assert labels["again", "tuned"] == labels["a", "tuned"] == "tuned (a)"
    assert run_names([Path("x/a"), Path("y/a"), Path("b")]) == ["x/a", "y/a", "b"]


def test_win_rates_across_runs_are_those_of_the_saved_answers(runs: Path, tmp_path: Path) -> None:
    long = load_evaluation(altered(runs / "a", tmp_path / "long", tuned="x" * 999), "long")
    silent = load_evaluation(altered(runs / "a", tmp_path / "silent", tuned=""), "silent")
    found = combine([long, silent])
    figures = found.figures
    assert found.won_by == "reward"
    assert figures["win.tuned (long).tuned (silent)"] == 1
    assert figures["win.tuned (silent).tuned (long)"] == 0
    ours, theirs = figures["win.tuned (silent).base"], figures["win.base.tuned (silent)"]
    assert ours + theirs == 1
    assert figures["base.chrf"] == long.figures["base.chrf"]
    assert figures["win_by.reward.tuned (long).base"] == long.figures["win_by.reward.tuned.base"]
    assert ["reward", "tuned (silent)", "base"] in figures["contests"]


def test_other_prompts_are_said_and_only_common_ones_compared(runs: Path, tmp_path: Path) -> None:
    found = combine([load_evaluation(runs / name, name) for name in "ab"])
    # base was asked four prompts in b and five in a, in other batches: not the same answers, so two policies
    assert len(found.shared) == 4
    page = tmp_path / "page.html"
    compare([runs / "a", runs / "b"], page)
    text = page.read_text()
    assert "They did not answer the same prompts (5 in a, 4 in b; 4 in common)" in text
    assert "the inn 3" in text
    assert "the inn 4" not in text


def test_the_page_shows_all_and_runs_nothing_that_a_model_said(
    runs: Path, tmp_path: Path, capsys: Any
) -> None:
    hostile = altered(runs / "a", tmp_path / "c", tuned=HOSTILE)
    page = tmp_path / "page.html"
    assert align(["eval", "--compare", str(runs / "a"), str(hostile), "--out", str(page), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["prompts"] == 5
    text = page.read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)" in text
    for heading in (
        "against KL",
        "Who wins over whom",
        "By a reward model",
        "Examples",
        "Each figure",
        "c/config.yaml",
    ):
        assert heading in text, heading
    assert "All answered the same 5 prompts." in text


def test_wrong_use(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(words: list[str], code: int) -> str:
        assert align(["eval", "--compare", "--out", str(tmp_path / "page.html"), *words]) == code
        return " ".join(capsys.readouterr().err.split())

    assert "two run folders or more" in says([str(runs / "a")], 2)
    assert "is no finished evaluation" in says([str(runs / "a"), str(tmp_path)], 1)
    assert "--labels takes one run folder" in says([str(runs / "a"), "--labels"], 2)
    broken = altered(runs / "a", tmp_path / "broken")
    (broken / "summary.json").write_text("{")
    assert "not valid JSON" in says([str(runs / "a"), str(broken)], 1)
    assert not (tmp_path / "page.html").exists()
