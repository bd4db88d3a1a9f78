"""docs/sft.md: its commands run, in their order, on a tiny model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from alignment.cli import run as align

DOCS = (Path(__file__).parents[2] / "docs" / "sft.md").read_text(encoding="utf-8")


def test_every_command_runs(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_model, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```sh\n(.*?)^```", DOCS, re.M | re.S)
    assert len(blocks) == 2
    ran = 0
    for block in blocks:
        for name, text in re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END\n", block, re.M | re.S):
            Path(name).write_text(text, encoding="utf-8")
        for line in re.findall(r"^align (.*)$", block, re.M):
            assert align([*shlex.split(line), "max_length=200"]) == 0, line
            ran += 1
    assert ran == 4
    assert json.loads(Path("runs/weighed/summary.json").read_text())["shares"] == {"zh": 0.7, "en": 0.3}
    assert "general_perplexity" in json.loads(Path("runs/watched/summary.json").read_text())
