"""`align ppo` and `align rollout` on vLLM in process: they learn, resume and answer as with the embedded engine."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from alignment.cli import run
from alignment.models import load_policy
from alignment.runs import RunFolder
from rollout import RolloutError
from rollout.vllm_engine import VllmEngine
from tests.alignment.ppo_config import write_ppo_config, write_prompts
from tests.alignment.test_ppo_trainer import make_trainer

STOP = 1
SMALL: dict[str, Any] = {"max_model_len": 128, "cache_gib": 0.25}
LORA = {"rank": 16, "alpha": 32}
LEARNING: dict[str, Any] = {"episodes": 64, "epochs": 3, "microbatch": 32, "kl": {"coef": 0.0}}


@pytest.fixture(scope="module")
def engine(wide_model: Path) -> Iterator[VllmEngine]:
    engine = VllmEngine(str(wide_model), [STOP], dtype="float32", **SMALL)
    yield engine
    engine.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("tuning", "rate"), [(LORA, 1e-2), ({"method": "full"}, 6e-3)], ids=["lora", "full"])
def test_ppo_learns_on_vllm_as_on_the_policy_itself(
    engine: VllmEngine, wide_model: Path, tuning: dict[str, Any], rate: float
) -> None:
    """Three seeds each. With the same weights both sample from one distribution; only the luck differs."""
    ends: dict[str, list[float]] = {"vllm": [], "transformers": []}
    for seed, name in itertools.product(range(3), ends):
        trainer = make_trainer(wide_model, seed=seed, tuning=tuning, learning_rate=rate, **LEARNING)
        if name == "vllm":
            engine.reseed(seed)
            trainer.sampler.engine = engine
        rows = [trainer.step() for _ in range(14)]
        assert all(row["engine_gap_max"] < 1e-3 for row in rows)
        assert name != "vllm" or all(row["delivery_gap"] < 1e-3 for row in rows)
        ends[name].append(statistics.mean(row["score_mean"] for row in rows[-3:]))
        assert ends[name][-1] > rows[0]["score_mean"] + 0.1
    noise = math.sqrt(
        sum(statistics.variance(of) / 3 for of in ends.values())
    )  # of the difference of the means
    difference = statistics.mean(ends["vllm"]) - statistics.mean(ends["transformers"])
    print(f"mean score, last three of 14 iterations: {ends}; difference {difference:.3f}, noise {noise:.3f}")
    assert abs(difference) < max(3 * noise, 0.05)


def test_a_delivery_that_is_lost_stops_the_run(
    engine: VllmEngine, wide_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(wide_model)
    trainer.sampler.engine = engine
    trainer.step()
    monkeypatch.setattr(engine, "_reload", lambda policy: None)
    with pytest.raises(
        RolloutError, match=r"was not delivered: the engine still answers as version \d+, to the"
    ):
        trainer.step()


def test_the_base_alone_is_noticed(
    engine: VllmEngine, wide_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others have met: the engine gets the weights without the adapter."""
    trainer = make_trainer(wide_model)
    trainer.sampler.engine = engine
    for _ in range(2):
        trainer.step()
    reload = engine._reload
    monkeypatch.setattr(engine, "_reload", lambda policy: reload(load_policy(str(wide_model), "float32")))
    with pytest.raises(RolloutError, match="answers as the reference"):
        trainer.step()


# vLLM ends all engines of a process with one of them: what makes its own comes last


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return RunFolder(folder).rows()


def test_a_resumed_run_is_the_unbroken_one(wide_model: Path, tmp_path: Path) -> None:
    path = write_ppo_config(tmp_path, wide_model, engine="vllm", vllm=SMALL, learning_rate=1e-2, save_every=2)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(["ppo", "-c", str(path), f"run={whole}", "iterations=4"]) == 0
    assert run(["ppo", "-c", str(path), f"run={broken}", "iterations=2"]) == 0
    assert run(["ppo", "-c", str(path), f"run={broken}", "iterations=4", "--resume"]) == 0
    assert rows_of(broken) == rows_of(whole)
    adapter = "model/adapter_model.safetensors"
    assert (whole / adapter).read_bytes() == (broken / adapter).read_bytes()
    assert max(row["engine_gap_max"] for row in rows_of(whole)) < 1e-3
    assert {row["iteration"] for row in rows_of(whole)} == {1, 2, 3, 4}


def test_a_narrow_base_is_delivered_within_what_it_rounds_away(wide_model: Path, tmp_path: Path) -> None:
    policy = {"path": str(wide_model), "dtype": "bfloat16"}
    path = write_ppo_config(tmp_path, wide_model, policy=policy, engine="vllm", vllm=SMALL, iterations=3)
    assert run(["ppo", "-c", str(path)]) == 0
    rows = rows_of(tmp_path / "run")
    assert all(1e-4 < row["delivery_gap"] < 0.15 and row["engine_gap_mean"] < 0.06 for row in rows)


def test_a_four_bit_policy_is_trained(wide_model: Path, tmp_path: Path) -> None:
    path = write_ppo_config(
        tmp_path, wide_model, engine="vllm", vllm=SMALL, learning_rate=1e-2, iterations=2,
        tuning={"method": "qlora", "rank": 4},
    )  # fmt: skip
    assert run(["ppo", "-c", str(path)]) == 0
    assert all(row["delivery_gap"] < 0.15 for row in rows_of(tmp_path / "run"))  # the trainer is in bfloat16
    config = json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())
    assert config["r"] == 4


def test_rollouts_are_those_of_the_embedded_engine(wide_model: Path, tmp_path: Path) -> None:
    """Of a policy that is an adapter, and with a prompt that is too long for vLLM."""
    ppo = write_ppo_config(tmp_path, wide_model, learning_rate=1e-2, iterations=1)
    assert run(["ppo", "-c", str(ppo)]) == 0
    prompts = write_prompts(tmp_path / "asked.jsonl", count=6)
    with prompts.open("a") as file:
        file.write(json.dumps({"prompt": "word " * 100}) + "\n")
    needed = [f"policy.path={tmp_path / 'run'}", f"prompts={prompts}", "store=null", "completions=1"]
    needed += ["policy.dtype=float32", "sampling.temperature=0", "sampling.max_new_tokens=16"]
    answers = {}
    for name, settings in {"transformers": [], "vllm": [f"vllm={json.dumps(SMALL)}"]}.items():
        folder = tmp_path / name
        assert run(["rollout", *needed, f"engine={name}", f"run={folder}", *settings]) == 0
        answers[name] = [row["answers"][0]["text"] for row in RunFolder(folder).rows("answers.jsonl")]
    assert answers["vllm"] == answers["transformers"][:6]
    assert len(set(answers["vllm"])) > 1
    assert RunFolder(tmp_path / "vllm").summary["too_long"] == 1


def test_rollouts_go_on_where_they_were_cut(wide_model: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "asked.jsonl", count=6)
    settings = [f"policy.path={wide_model}", f"prompts={prompts}", "store=null", "sampling.max_new_tokens=8"]
    command = ["rollout", *settings, "engine=vllm", f"vllm={json.dumps(SMALL)}", "batch_size=4"]
    assert run([*command, f"run={tmp_path / 'whole'}"]) == 0
    record = tmp_path / "whole" / "answers.jsonl"
    unbroken = record.read_bytes()
    record.write_bytes(b"".join(unbroken.splitlines(keepends=True)[:3]))  # torn in the second batch
    assert run([*command, f"run={tmp_path / 'whole'}"]) == 0
    assert record.read_bytes() == unbroken
