"""`align judge run`: dry run, run, JSON figures, and the configs in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

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


@pytest.mark.parametrize("name", ["judge.yaml", "demo/judge.yaml"])
def test_configs_in_the_repository(name):
    assert load_config(JudgeConfig, ROOT / "configs" / name).api_key_env is None
