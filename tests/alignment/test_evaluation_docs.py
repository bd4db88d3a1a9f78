"""docs/eval.md: its commands run, in their order, on tiny models and against the stand-in judge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from alignment.demo.stand_in_judge import MODEL, StandInJudge
from tests.alignment.docs_commands import FOLDER, run_blocks

DOCS = (FOLDER / "eval.md").read_text(encoding="utf-8")


def test_every_command_runs(
    tmp_path: Path, tiny_model: Path, shaken_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / "base")
    shutil.copytree(shaken_model, tmp_path / "tuned")
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    with StandInJudge(lambda _, answer: len(answer) / 100) as server:
        judge = {"base_url": server.base_url, "model": MODEL}
        Path("configs/judge.yaml").write_text(json.dumps(judge))
        assert run_blocks(DOCS) == (5, 7)
    first, text, judged, suites = (
        json.loads(Path(f"runs/{run}/summary.json").read_text())
        for run in ("first", "text", "judged", "suites")
    )
    assert first["tuned.answers"] == 6
    assert text["tuned.perplexity"] > text["base.perplexity"] > 1
    assert judged[f"win_by.judge:{MODEL}.tuned.base.labelled"] > 0
    assert suites["suite.safety.prompts"] == 3
    assert 0 <= suites["suite.safety.tuned.under_refusal"] <= 1
    assert "Who wins over whom" in Path("runs/comparison.html").read_text(encoding="utf-8")
