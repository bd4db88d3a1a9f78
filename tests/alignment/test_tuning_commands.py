"""Tuning methods in the commands: each trains, the reference is where the policy was, runs continue bit for bit."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import yaml
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from safetensors.torch import load_file

from alignment.cli import run as align
from alignment.config import load_config
from alignment.models import is_adapter, load_policy, load_tokenizer
from alignment.sft import SFTConfig, prepare, read_data
from alignment.tuning.methods import METHODS
from reward.model import read_tensors
from tests.alignment.ppo_config import write_ppo_config
from tests.alignment.tuning_models import FAMILIES, write_model

LN2 = math.log(2)
# B of LoRA+ learns 16 times as fast; scales alone, singular values that start at zero, and gates take longer
RATE = {"lora_plus": 1e-3, "ia3": 1e-1, "adalora": 5e-2, "unipelt": 3e-2}
AT_THE_BASE = {name for name, method in METHODS.items() if not method.prompt}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    ask = [{"role": "user", "content": "where is the inn?"}]
    pairs = [
        {
            "prompt": [{"role": "user", "content": f"where is inn {i}?"}],
            "chosen": [{"role": "assistant", "content": "by the river " + "x" * (i % 5)}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for i in range(40)
    ]
    answers = [
        {"prompt": ask, "completion": [{"role": "assistant", "content": f"river {i}"}]} for i in range(40)
    ]
    for name, rows in (("pairs", pairs), ("answers", answers)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def words(stage: str, method: str, model: Path, data: Path, run: Path) -> list[str]:
    rate = f"learning_rate={RATE.get(method, 1e-2)}"
    shared = [f"run={run}", f"tuning.method={method}", rate, "batch_size=8"]
    pairs, answers = f"data={data}/pairs.jsonl", f"data={data}/answers.jsonl"
    if stage == "sft":
        return ["sft", f"model.path={model}", answers, "max_length=64", "max_steps=12", *shared]
    if stage == "reward":
        return ["reward", "train", f"base.path={model}", pairs, "max_length=64", "epochs=3", *shared]
    return ["dpo", f"policy.path={model}", pairs, "max_length=64", "epochs=3", *shared]


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def check_stage(stage: str, method: str, model: Path, data: Path, folder: Path) -> None:
    run = folder / stage
    if stage == "ppo":
        config = write_ppo_config(folder, model, tuning={"method": method}, iterations=2, run=str(run))
        assert align(["ppo", "-c", str(config)]) == 0
        rows = rows_of(run)
        assert abs(rows[0]["kl"]) < 1e-5  # the reference is the policy before it learned
        assert rows[1]["kl"] != 0
    else:
        assert align(words(stage, method, model, data, run)) == 0
        losses = [row["loss"] for row in rows_of(run) if "loss" in row]
        few = max(1, len(losses) // 4)  # a single batch may be an easy one
        assert fmean(losses[-few:]) < fmean(losses[:few])
        if stage == "dpo" and method in AT_THE_BASE:
            assert losses[0] == pytest.approx(LN2, abs=1e-3)
    if stage != "reward":
        bits = METHODS[method].bits
        tuned = load_policy(str(run), four_bit=bits == 4, eight_bit=bits == 8)
        ids = torch.arange(5, 25)[None]
        with torch.no_grad():
            assert tuned(ids).logits.isfinite().all()
        assert is_adapter(str(run / "model")) == (method != "full")


@pytest.mark.parametrize(
    ("method", "stage"),
    [
        ("pissa", "dpo"),
        ("prefix", "dpo"),
        ("unipelt", "reward"),
        ("unipelt", "ppo"),
        ("qlora_int8", "sft"),
        ("lora_plus", "reward"),
    ],
)
def test_a_method_in_a_stage(method: str, stage: str, tiny_model: Path, data: Path, tmp_path: Path) -> None:
    check_stage(stage, method, tiny_model, data, tmp_path)


@pytest.fixture(scope="session")
def families(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("families")
    return {family: write_model(family, tiny_model, home / family) for family in FAMILIES}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_in_every_stage(
    method: str,
    family: str,
    stage: str,
    families: dict[str, Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if stage in METHODS[method].stages and (method != "moe" or family == "mixtral"):
        check_stage(stage, method, families[family], data, tmp_path)
        return
    if stage == "ppo":
        config = write_ppo_config(tmp_path, families[family], tuning={"method": method})
        assert align(["ppo", "-c", str(config)]) == 1
    else:
        assert align(words(stage, method, families[family], data, tmp_path / "run")) == 1
    said = capsys.readouterr().err
    assert "cannot be used for" in said or "no experts" in said


@pytest.mark.parametrize(("method", "stage"), [("adalora", "ppo"), ("prompt", "reward")])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_stage_that_a_method_cannot_do_is_refused_at_once(
    method: str,
    stage: str,
    more: list[str],
    tiny_model: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    ppo = write_ppo_config(tmp_path, tiny_model, tuning={"method": method}, run=str(run))
    command = ["ppo", "-c", str(ppo)] if stage == "ppo" else words(stage, method, tiny_model, data, run)
    assert align([*command, *more]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"tuning.method={method} cannot be used for {stage}: choose one of lora, " in line
    assert not run.exists()  # else it would stand in the way of the next try


@pytest.mark.slow
def test_a_critic_starts_from_a_reward_model_with_tuned_experts(
    families: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, reward = families["mixtral"], tmp_path / "reward"
    assert align(words("reward", "moe", model, data, reward)) == 0
    config = write_ppo_config(
        tmp_path,
        model,
        tuning={"method": "moe"},
        reward=str(reward),
        critic={"trunk": "own", "init": "reward"},
        iterations=2,
    )
    assert align(["ppo", "-c", str(config)]) == 0
    assert "the critic starts from the reward adapter" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("method", ["adalora", "p_tuning", "prefix", "pissa"])
def test_a_resumed_run_equals_an_unbroken_one(
    method: str, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [*words("sft", method, tiny_model, data, run), "save_every=6"]
    assert align(command) == 0
    whole = read_tensors(run / "model", lambda _: True)
    shutil.rmtree(run / "checkpoints" / "checkpoint-12")
    shutil.rmtree(run / "model")
    assert align([*command, "--resume"]) == 0
    again = read_tensors(run / "model", lambda _: True)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("method", ["adalora", "houlsby", "p_tuning", "prefix"])
def test_what_is_saved_scores_as_it_did(
    method: str, tiny_model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert align([*words("sft", method, tiny_model, data, run), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    config = load_config(SFTConfig, run / "config.yaml")
    held_out = prepare(config, read_data(config), load_tokenizer(str(tiny_model))).held_out
    model = load_policy(str(run))
    losses = []
    for example in held_out:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([example.input_ids])).logits[0, -len(example.labels) : -1]
        labels = torch.tensor(example.labels[1:])
        losses.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none")[labels != -100])
    loss = torch.cat(losses).mean().item()
    assert figures["held_out_loss"] == pytest.approx(loss, abs=1e-4)


def test_a_bottleneck_reward_model_scores_where_none_was_trained(
    tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What trains such an adapter has let PEFT know of its kind; what only reads one, in another process, must, too."""
    assert align(words("reward", "houlsby", tiny_model, data, tmp_path / "run")) == 0
    monkeypatch.delitem(sys.modules, "alignment.tuning.bottleneck")
    for mapping in (
        PEFT_TYPE_TO_CONFIG_MAPPING,
        PEFT_TYPE_TO_PREFIX_MAPPING,
        PEFT_TYPE_TO_TUNER_MAPPING,
    ):
        monkeypatch.delitem(mapping, "BOTTLENECK")
    scores = tmp_path / "scores.jsonl"
    arguments = ["reward", "score", str(tmp_path / "run"), str(data / "answers.jsonl"), "--out", str(scores)]
    assert align(arguments) == 0
    assert len(scores.read_text().splitlines()) == 40


def test_adalora_prunes_to_its_budget(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    assert align([*words("sft", "adalora", tiny_model, data, tmp_path / "run"), "tuning.rank=2"]) == 0
    settings = json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())
    ranks = [sum(kept) for kept in settings["rank_pattern"].values()]
    assert len(ranks) == 14
    assert sum(ranks) == 2 * 14  # of the 3 that each began with
    assert {len(kept) for kept in settings["rank_pattern"].values()} == {3}


def test_adalora_pulls_its_singular_vectors_towards_orthogonal(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    assert align([*words("sft", "adalora", tiny_model, data, tmp_path / "run"), "save_every=6"]) == 0
    first, last = (
        load_file(tmp_path / "run" / "checkpoints" / f"checkpoint-{step}" / "tuning_weights.safetensors")
        for step in (6, 12)
    )

    def distance(weights: dict[str, torch.Tensor]) -> float:
        rows = [w for name, w in weights.items() if ".lora_A." in name]
        return sum(torch.linalg.matrix_norm(a @ a.T - torch.eye(len(a))).item() for a in rows)

    assert distance(last) < distance(first)


def test_adalora_refuses_too_few_steps(
    tiny_model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*words("sft", "adalora", tiny_model, data, tmp_path / "run"), "max_steps=5"]
    assert align(command) == 1
    assert "at least 10 optimizer steps, and this run has 5" in capsys.readouterr().err


def test_the_share_that_is_trained_is_said(
    tiny_model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert align(words("sft", "bitfit", tiny_model, data, tmp_path / "run")) == 0
    assert "tuning.method=bitfit trains 1.38% of the weights" in capsys.readouterr().err


def test_a_prompt_without_its_network_is_not_trained_on(
    tiny_model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert align(words("sft", "p_tuning", tiny_model, data, tmp_path / "first")) == 0
    again = [*words("sft", "p_tuning", tiny_model, data, tmp_path / "second")]
    again[1] = f"model.path={tmp_path}/first"
    assert align(again) == 1
    assert "start from the base" in capsys.readouterr().err


def test_lower_layers_stay_frozen_in_full_tuning(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    extra = ["tuning.layers=1", "tuning.rate_decay=0.5"]
    assert align([*words("sft", "full", tiny_model, data, tmp_path / "run"), *extra]) == 0
    before, after = (
        read_tensors(folder, lambda _: True) for folder in (tiny_model, tmp_path / "run" / "model")
    )
    frozen = {name for name in before if torch.equal(before[name], after[name])}
    assert frozen == {n for n in before if "embed_tokens" in n or ".layers.0." in n}
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["tuning"]["rate_decay"] == 0.5
