"""`align reward` and `align dpo` from the command line: exit codes, plans, figures, one line for each error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignment.cli import run as align
from alignment.config import load_config
from alignment.dpo import DPOConfig
from alignment.rewards import RewardRunConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {
            "prompt": [{"role": "user", "content": f"where is inn {i}?"}],
            "chosen": [{"role": "assistant", "content": "by the river"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for i in range(30)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_reward_train_eval_score_and_dpo(
    tiny_model: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = pairs.parent
    common = [f"data={pairs}", "max_length=128", "batch_size=8", "tuning.rank=2", "learning_rate=1e-3"]
    assert align(["reward", "train", f"run={runs}/rm", f"base.path={tiny_model}", *common, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train_pairs"] > 20
    assert align(["reward", "eval", f"{runs}/rm", str(pairs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 30
    answers = runs / "answers.jsonl"
    answers.write_text('{"prompt": "where?", "completion": "by the river"}\n')
    assert align(["reward", "score", f"{runs}/rm", str(answers), "--out", str(runs / "scored.jsonl")]) == 0
    assert "score" in json.loads((runs / "scored.jsonl").read_text())
    assert align(["dpo", f"run={runs}/dpo", f"policy.path={tiny_model}", *common]) == 0
    assert "the policy is in" in capsys.readouterr().err
    assert (runs / "dpo" / "model" / "adapter_config.json").exists()


def test_dry_run_writes_nothing(tiny_model: Path, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(pairs.parent.iterdir())
    words = [f"data={pairs}", f"run={pairs.parent}/x", "batch_size=8", "--dry-run"]
    for command in (["reward", "train", f"base.path={tiny_model}"], ["dpo", f"policy.path={tiny_model}"]):
        assert align([*command, *words]) == 0
        shown = capsys.readouterr().out
        assert "optimizer steps: " in shown
        assert f"data: {pairs}" in shown.replace("\n", "")
    assert set(pairs.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["dpo", "run=x", "policy.path=y", "data=z", "betta=1"], 2, "did you mean 'beta'"),
        (["dpo", "run=x", "policy.path=y", "data=z", "beta=high"], 2, "beta: "),
        (["reward", "train", "run=x", "data=z"], 2, "key 'base' is required"),
        (["reward", "train", "run=x", "data=no.jsonl", "base.path=y"], 1, "no preference data at no.jsonl"),
        (["reward", "eval", "runs/none", "pairs"], 1, "no "),
    ],
)
def test_one_readable_line(
    words: list[str],
    code: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert align(words) == code
    shown = capsys.readouterr().err
    assert line in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("kind", "name", "method"),
    [
        (RewardRunConfig, "reward.yaml", "lora"),
        (RewardRunConfig, "reward_qlora.yaml", "qlora"),
        (RewardRunConfig, "reward_ensemble.yaml", "lora"),
        (RewardRunConfig, "demo/reward.yaml", "lora"),
        (DPOConfig, "dpo.yaml", "lora"),
        (DPOConfig, "dpo_qlora.yaml", "qlora"),
        (DPOConfig, "demo/dpo.yaml", "lora"),
    ],
)
def test_the_configs_that_come_along_are_valid(kind: type, name: str, method: str) -> None:
    config = load_config(kind, CONFIGS / name)
    assert config.tuning.method == method
