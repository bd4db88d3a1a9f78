"""`align judge run`: dry run, run, JSON figures, and the configs in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignment.cli import run
from alignment.cli.judge import app
from alignment.config import load_config
from alignment.demo.stand_in_judge import MODEL, StandInJudge
from alignment.errors import ConfigError
from labeling.errors import LabelingError
from labeling.judge.config import JudgeConfig
from labeling.store import Store
from labeling.views import NewComparison, NewCompletion

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store_file(tmp_path: Path) -> str:
    path = str(tmp_path / "align.db")
    sides = [NewCompletion([{"role": "assistant", "content": text}]) for text in ("please come", "come")]
    Store.open(path).add_comparisons(
        NewComparison([{"role": "user", "content": f"Invite {i}."}], sides) for i in range(3)
    )
    return path


def align_judge_run(*arguments: str) -> tuple[str, str]:
    """Standard output and standard error; raises what the command raises."""
    result = CliRunner().invoke(app, ["run", *arguments], catch_exceptions=True)
    if result.exception:
        raise result.exception
    return result.stdout, result.stderr


def test_dry_run_then_run_then_nothing_left(store_file):
    with StandInJudge(lambda _, text: float("please" in text)) as server:
        arguments = ["-c", str(ROOT / "configs/demo/judge.yaml"), "--store", store_file, "--json"]
        arguments.append(f"base_url={server.base_url}")
        stdout, stderr = align_judge_run(*arguments, "--dry-run")
        assert sum(server.log.attempts.values()) == 0
        plan = json.loads(stdout)
        assert (plan["comparisons"], plan["calls"]) == (3, 6)
        assert f"base_url: {server.base_url}" in stderr
        report = json.loads(align_judge_run(*arguments)[0])
        assert (report["comparisons"], report["calls"]["answered"]) == (3, 6)
        assert sum(report["outcomes"].values()) == 3
        stdout, stderr = align_judge_run(*arguments)
        assert json.loads(stdout)["calls"]["attempts"] == 0
        assert sum(server.log.attempts.values()) == 6
    assert Store.open(store_file).counts()["labels"] == report["labels"]


def test_wrong_use(store_file, tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'modell'; did you mean 'model'"):
        align_judge_run("modell=x", "--store", store_file)
    with pytest.raises(ConfigError, match="key 'model' is required"):
        align_judge_run("--store", store_file)
    with pytest.raises(LabelingError, match="no store at"):
        align_judge_run(f"model={MODEL}", "--store", str(tmp_path / "none.db"))
    assert not (tmp_path / "none.db").exists()


class TestBadInput:
    """One line on standard error, exit code 1, and nothing half-written."""

    def fails(self, capsys, store_file: str, says: str, *arguments: str) -> None:
        assert run(["judge", "run", "--store", store_file, *arguments]) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert len(lines) == 1
        assert says in lines[0]
        counts = Store.open(store_file).counts()
        assert counts["labels"] == 0

    def test_unknown_model(self, store_file, capsys):
        with StandInJudge(lambda *_: 0.0) as server:
            self.fails(capsys, store_file, "knows no model 'x'", f"base_url={server.base_url}", "model=x")

    def test_wrong_key(self, store_file, capsys, monkeypatch):
        monkeypatch.setenv("JUDGE_KEY", "not-it")
        with StandInJudge(lambda *_: 0.0, api_key="right") as server:
            arguments = [f"base_url={server.base_url}", f"model={MODEL}", "api_key_env=JUDGE_KEY"]
            self.fails(capsys, store_file, "is the key in JUDGE_KEY right?", *arguments)
            self.fails(capsys, store_file, "is the key in JUDGE_KEY right?", *arguments, "--batch")

    def test_unreachable(self, store_file, capsys):
        arguments = ["base_url=http://127.0.0.1:9/v1", "model=x"]
        self.fails(capsys, store_file, "cannot reach the judge at http://127.0.0.1:9/v1", *arguments)

    def test_undefined_variable(self, store_file, capsys, tmp_path):
        path = tmp_path / "mine.j2"
        path.write_text("{{ answer_a }} {{ answer_b }} {{ rubrik }}")
        self.fails(capsys, store_file, "'rubrik' is undefined", f"prompt={path}", "model=x")

    def test_nothing_to_judge(self, tmp_path, capsys):
        empty = str(tmp_path / "empty.db")
        Store.open(empty)
        self.fails(capsys, empty, "the store holds no comparisons", "model=x")

    def test_a_budget_without_a_price(self, store_file, capsys):
        self.fails(capsys, store_file, "set price.input and price.output", "model=x", "--budget", "1")

    def test_no_judge_to_report_on(self, store_file, capsys, tmp_path):
        assert run(["judge", "report", "--store", store_file, "--out", str(tmp_path / "card")]) == 1
        assert "no judge has labelled in this store" in capsys.readouterr().err
        assert not (tmp_path / "card").exists()


def test_a_budget_on_the_command_line_and_a_report(store_file, capsys, tmp_path):
    with StandInJudge(lambda _, text: float("please" in text)) as server:
        judge = [f"base_url={server.base_url}", f"model={MODEL}", "price.input=1", "price.output=1"]
        assert run(["judge", "run", "--store", store_file, *judge, "--budget", "1", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
    assert 0 < report["cost"] < 1
    assert run(["judge", "report", "--store", store_file, "--out", str(tmp_path / "card"), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card == json.loads((tmp_path / "card/card.json").read_text())
    assert card["cost"] == pytest.approx(report["cost"])
    assert {path.name for path in (tmp_path / "card").iterdir()} == {
        "card.md",
        "card.json",
        "reliability.svg",
    }


@pytest.mark.parametrize("name", ["judge.yaml", "demo/judge.yaml"])
def test_configs_in_the_repository(name):
    assert load_config(JudgeConfig, ROOT / "configs" / name).api_key_env is None
