"""DPO in rounds, with the real rollouts, a scorer in Python or a judge over HTTP, and kills in between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from alignment.cli import run as align
from alignment.config import load_config
from alignment.demo.stand_in_judge import MODEL, StandInJudge
from alignment.dpo import DPOConfig
from alignment.dpo import rounds as rounds_module
from alignment.dpo.rounds import train_in_rounds
from alignment.errors import AlignmentError, ConfigError
from alignment.runs import RunFolder

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def config(tiny_model: Path, folder: Path, **keys: Any) -> DPOConfig:
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"where is inn {i}?"}) + "\n" for i in range(24)))
    online = {
        "prompts": str(prompts),
        "prompts_a_round": 12,
        "completions": 4,
        "sampling": {"max_new_tokens": 12},
        "reward": "python:tests.reward.scoring_rules:length",
    }
    defaults = {
        "run": str(folder / "run"),
        "policy": {"path": str(tiny_model)},
        "rounds": 2,
        "tuning": {"rank": 4},
        "learning_rate": 1e-3,
        "batch_size": 4,
        "microbatch": 4,
        "max_length": 128,
    }
    return DPOConfig.model_validate(defaults | keys | {"online": online | keys.get("online", {})})


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of two rounds that nothing stopped. Do not write in it."""
    settings = config(tiny_model, tmp_path_factory.mktemp("whole"))
    run = RunFolder(Path(settings.run))
    assert train_in_rounds(settings) == run.summary
    return run


def test_rounds_follow_each_other(whole: RunFolder) -> None:
    rounds = whole.summary["rounds"]
    assert len(rounds) == 2
    assert all(one["train_pairs"] > 4 and one["mean_score"] is not None for one in rounds)
    first, second = (whole.path / f"round-{n}" for n in (1, 2))
    asked = [
        {json.loads(line)["prompt"][0]["content"] for line in (r / "prompts.jsonl").open()}
        for r in (first, second)
    ]
    assert len(asked[0] | asked[1]) == 24  # prompts in turn
    assert load_config(DPOConfig, second / "dpo" / "config.yaml").policy.path == str(first / "dpo" / "model")
    weights = "adapter_model.safetensors"
    assert (whole.model / weights).read_bytes() == (second / "dpo" / "model" / weights).read_bytes()
    assert (whole.model / weights).read_bytes() != (first / "dpo" / "model" / weights).read_bytes()


def test_a_run_that_was_stopped_ends_as_an_unbroken_one(
    whole: RunFolder, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tiny_model, tmp_path, rounds=1)
    train_in_rounds(settings)
    more = config(tiny_model, tmp_path, rounds=2)
    with monkeypatch.context() as patch:  # stopped between the answers of the second round and its training
        patch.setattr(rounds_module, "train_dpo", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_in_rounds(more, resume=True)
    shutil.rmtree(Path(settings.run) / "model")
    assert train_in_rounds(more, resume=True) == whole.summary
    with pytest.raises(ConfigError, match="beta changed"):
        train_in_rounds(config(tiny_model, tmp_path, beta=0.5), resume=True)


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_judge_labels(tiny_model: Path, tmp_path: Path) -> None:
    with StandInJudge(lambda _, answer: float(answer.count("e"))) as server:
        judge = {"model": MODEL, "base_url": server.base_url}
        online = {"reward": None, "judge": judge, "completions": 2}
        figures = train_in_rounds(config(tiny_model, tmp_path, rounds=1, online=online))
    assert figures["rounds"][0]["train_pairs"] > 4
    assert (tmp_path / "run" / "round-1" / "snapshots").exists()


def test_what_cannot_be_done_is_said(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["dpo", f"run={tmp_path}/x", f"policy.path={tiny_model}"]
    for more, said in [
        ([], "key 'data' is required"),
        (["--rounds", "2"], "rounds need the section `online`"),
        (["--rounds", "2", "online.prompts=p.jsonl"], "set one of `reward` and `judge`"),
        (["--rounds", "2", "data=pairs.jsonl"], "leave out `data`"),
    ]:
        assert align([*words, *more]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    same = config(tiny_model, tmp_path, online={"sampling": {"max_new_tokens": 4, "temperature": 1e-4}})
    with pytest.raises(AlignmentError, match="no prompt has answers of unlike score"):
        train_in_rounds(same)


def test_the_config_file_and_its_plan(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(tiny_model, tmp_path)
    words = [
        f"online.prompts={settings.online.prompts}",
        f"policy.path={tiny_model}",
        "--rounds",
        "5",
        "--dry-run",
    ]
    assert align(["dpo", "--config", str(CONFIGS / "dpo_rounds.yaml"), *words]) == 0
    shown = capsys.readouterr().out
    assert "# rounds: 5" in shown
    assert "# prompts a round: 1000 of 24" in shown
