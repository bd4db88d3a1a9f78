"""docs/dpo.md: its commands run, in their order, on tiny models."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from alignment.dpo.losses import KINDS
from tests.alignment.docs_commands import FOLDER, run_blocks

DOCS = (FOLDER / "dpo.md").read_text(encoding="utf-8")


def test_every_command_runs(
    tmp_path: Path, tiny_model: Path, reward_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / "runs/sft/model")
    shutil.copytree(reward_folder, tmp_path / "runs/reward/model")
    monkeypatch.chdir(tmp_path)
    assert run_blocks(DOCS, "max_length=200") == (3, 5)
    assert len(json.loads(Path("runs/rounds/summary.json").read_text())["rounds"]) == 3


def test_the_table_has_every_loss() -> None:
    assert set(re.findall(r"^\| `(\w+)`", DOCS, re.M)) - {"loss"} == set(KINDS)
