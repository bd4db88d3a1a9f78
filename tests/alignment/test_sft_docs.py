"""docs/sft.md: its commands run, in their order, on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.alignment.docs_commands import FOLDER, run_blocks

DOCS = (FOLDER / "sft.md").read_text(encoding="utf-8")


def test_every_command_runs(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("base", "teacher"):
        shutil.copytree(tiny_model, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert run_blocks(DOCS, "max_length=200") == (5, 11)
    assert json.loads(Path("runs/weighed/summary.json").read_text())["shares"] == {"zh": 0.7, "en": 0.3}
    stages = json.loads(Path("runs/stages/summary.json").read_text())["stages"]
    assert [stage["data"] for stage in stages] == [["zh"], ["en", "graded"]]
    examined = json.loads(Path("runs/examined/summary.json").read_text())
    assert set(examined["tasks_before"]) == {"accuracy", "multiple_choice", "exact_match"}
    assert "general_perplexity" in json.loads(Path("runs/watched/summary.json").read_text())
