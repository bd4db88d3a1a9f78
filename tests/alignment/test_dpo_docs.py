"""docs/dpo.md: its commands run, in their order, on tiny models."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from alignment.cli import run as align
from alignment.dpo.losses import KINDS

DOCS = (Path(__file__).parents[2] / "docs" / "dpo.md").read_text(encoding="utf-8")


def test_every_command_runs(
    tmp_path: Path, tiny_model: Path, reward_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / "runs/sft/model")
    shutil.copytree(reward_folder, tmp_path / "runs/reward/model")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```sh\n(.*?)^```", DOCS, re.M | re.S)
    assert len(blocks) == 3
    ran = 0
    for block in blocks:
        for name, text in re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END\n", block, re.M | re.S):
            Path(name).write_text(text, encoding="utf-8")
        for line in re.findall(r"^align (.*)$", block, re.M):
            assert align([*shlex.split(line), "max_length=200"]) == 0, line
            ran += 1
    assert ran == 5
    assert len(json.loads(Path("runs/rounds/summary.json").read_text())["rounds"]) == 3


def test_the_table_has_every_loss() -> None:
    assert set(re.findall(r"^\| `(\w+)`", DOCS, re.M)) - {"loss"} == set(KINDS)
