"""docs/rollout.md: its `align rollout` commands run, in their order, on tiny models and a stand-in endpoint."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rollout.stand_in_endpoint import StandInEndpoint

DOCS = Path(__file__).parents[2] / "docs" / "rollout.md"


@pytest.mark.timeout(300)
def test_every_command_runs(tmp_path: Path, tiny_model: Path, reward_folder: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "runs/sft/model")
    shutil.copytree(reward_folder, tmp_path / "runs/reward/model")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    blocks = re.findall(r"^```sh(?: endpoint)?\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 4
    with StandInEndpoint(key="sk-not-a-real-one") as server:
        script = "set -euo pipefail\n" + "".join(blocks).replace("http://127.0.0.1:8000/v1", server.base_url)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    made = {
        name: json.loads((tmp_path / "runs" / name / "summary.json").read_text())
        for name in ("pairs", "four", "spread", "best", "closed")
    }
    assert all(figures["prompts"] == 3 for figures in made.values())
    assert made["closed"]["added"] == 3
    assert made["best"]["sft_rows"] > 0
    assert "sk-not-a-real-one" not in "".join(p.read_text() for p in (tmp_path / "runs/closed").iterdir())
