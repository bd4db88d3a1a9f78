"""docs/eval.md: its commands run, in their order, on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.alignment.docs_commands import FOLDER, run_blocks

DOCS = (FOLDER / "eval.md").read_text(encoding="utf-8")


def test_every_command_runs(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("base", "tuned"):
        shutil.copytree(tiny_model, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert run_blocks(DOCS, "sampling.max_new_tokens=8") == (2, 2)
    assert json.loads(Path("runs/first/summary.json").read_text())["tuned.answers"] == 6
    figures = json.loads(Path("runs/text/summary.json").read_text())
    assert figures["tuned.perplexity"] == figures["base.perplexity"] > 1
