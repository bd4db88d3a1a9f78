"""docs/judge.md: its commands run, in their order, against the stand-in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from alignment.demo.stand_in_judge import MODEL, StandInJudge
from labeling.store import Store
from tests.alignment.docs_commands import FOLDER, run_blocks


def test_every_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").mkdir()
    config = Path(shutil.copy(FOLDER.parent / "configs/judge.yaml", tmp_path / "configs"))
    pairs = [
        {"prompt": f"Invite guest {i}.", "chosen": "Please come.", "rejected": "Come."} for i in range(30)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    monkeypatch.chdir(tmp_path)
    with StandInJudge(lambda _, text: float("Please" in text)) as server:
        text = config.read_text().replace("http://127.0.0.1:8000/v1", server.base_url)
        config.write_text(text.replace("Qwen/Qwen3-4B-Instruct-2507", MODEL))
        assert run_blocks((FOLDER / "judge.md").read_text(encoding="utf-8")) == (4, 8)
    assert "stopped by the budget" in capsys.readouterr().err
    card = json.loads((tmp_path / "judge-card/card.json").read_text())
    assert (card["judge"], card["judgements"]) == (f"judge:{MODEL}", 30)
    assert card["figures"]["accuracy"]["value"] > 0.7
    assert (tmp_path / "judge-card/reliability.svg").read_text().startswith("<svg")
    manifest = json.loads((tmp_path / "snapshots/latest/manifest.json").read_text())
    assert f"judge:{MODEL}" in manifest["calibrations"]
    judges = {label.annotator for label in Store.open(str(tmp_path / "align.db")).effective_labels()}
    assert {f"judge:{MODEL}", "judge:thrifty", "judge:patient"} < judges
