"""PPO one step ahead of a real vLLM server: exact, and the same run however it is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from alignment.cli import run
from alignment.runs import RunFolder
from tests.alignment.ppo_config import write_ppo_config
from tests.vllm.test_server_engine import TrainingServer

pytestmark = pytest.mark.timeout(400)
SAME = ("score_mean", "response_length", "kl", "engine_gap_mean", "importance_mean")


def test_a_run_one_step_ahead_is_exact_and_resumes_as_itself(wide_model: Path, tmp_path: Path) -> None:
    server = TrainingServer(wide_model, tmp_path, "--lora-rank", "8")
    settings: dict[str, Any] = {"learning_rate": 1e-2, "save_every": 2, "engine": "vllm-server", "overlap": 1}
    config = str(write_ppo_config(tmp_path, wide_model, vllm={"urls": [server.url]}, **settings))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    try:
        server.wait()
        assert run(["ppo", "-c", config, f"run={whole}", "iterations=4"]) == 0
        assert run(["ppo", "-c", config, f"run={broken}", "iterations=2"]) == 0
        assert run(["ppo", "-c", config, f"run={broken}", "iterations=4", "--resume"]) == 0
    finally:
        server.stop()
    rows, others = RunFolder(whole).rows(), RunFolder(broken).rows()
    assert [row["staleness"] for row in rows] == [0.0, 1.0, 1.0, 1.0]
    assert rows[0]["engine_gap_max"] < 1e-3  # nothing is old yet
    assert all(row["delivery_gap"] < 1e-3 for row in rows)
    assert all(row["engine_gap_mean"] > 1e-2 for row in rows[1:])
    # a server puts requests together as they come, which moves the last digits
    for row, other in zip(rows, others, strict=True):
        assert {key: row[key] for key in SAME} == pytest.approx({key: other[key] for key in SAME}, rel=1e-2)
    state = json.loads((whole / "checkpoints" / "step-000004" / "state.json").read_text())
    assert len(state["ahead"]) == 8  # answers for an iteration that may yet come
