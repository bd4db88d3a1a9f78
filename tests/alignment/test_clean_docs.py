"""docs/data.md: its commands run, in their order, and leave out what the page says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.alignment.docs_commands import FOLDER, run_blocks


def test_every_command_runs(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_model, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    docs = (FOLDER / "data.md").read_text(encoding="utf-8")
    # `align data` takes no overrides of a config; the training is made to fit the tiny model
    docs = docs.replace("data=clean.jsonl", "data=clean.jsonl max_length=200")
    assert run_blocks(docs) == (1, 3)
    left = [json.loads(line) for line in Path("clean.rejects.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in left] == ["exact duplicate", "contaminated", "unreadable"]
    left = [json.loads(line) for line in Path("chinese.rejects.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in left] == ["other script"] * 3 + ["unreadable"]
    assert json.loads(Path("runs/clean/summary.json").read_text())["examples"] == 1
