"""docs/rollout.md: its `align rollout` commands run, in their order, on tiny models and a stand-in endpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.alignment.docs_commands import FOLDER, run_blocks
from tests.rollout.stand_in_endpoint import StandInEndpoint

KEY = "sk-not-a-real-one"


@pytest.mark.timeout(300)
def test_every_command_runs(
    tmp_path: Path, tiny_model: Path, reward_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / "runs/sft/model")
    shutil.copytree(reward_folder, tmp_path / "runs/reward/model")
    monkeypatch.chdir(tmp_path)
    docs = (FOLDER / "rollout.md").read_text(encoding="utf-8")
    assert f"export CLOSED_KEY={KEY}\n" in docs
    monkeypatch.setenv("CLOSED_KEY", KEY)
    with StandInEndpoint(key=KEY) as server:
        assert run_blocks(docs.replace("http://127.0.0.1:8000/v1", server.base_url)) == (4, 6)
    made = {
        name: json.loads(Path("runs", name, "summary.json").read_text())
        for name in ("pairs", "four", "spread", "best", "closed")
    }
    assert all(figures["prompts"] == 3 for figures in made.values())
    assert made["closed"]["added"] == 3
    assert made["best"]["sft_rows"] > 0
    assert KEY not in "".join(p.read_text() for p in Path("runs/closed").iterdir())
