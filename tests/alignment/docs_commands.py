"""Runs what a page of docs/ prints, in its order, in the current folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from alignment.cli import run as align

FOLDER = Path(__file__).parents[2] / "docs"


def run_blocks(docs: str, *overrides: str) -> tuple[int, int]:
    """Writes the files and runs the `align` commands, with `overrides`, of a page's `sh` blocks: how many of each."""
    blocks = re.findall(r"^```sh(?: endpoint)?\n(.*?)^```", docs, re.M | re.S)
    ran = 0
    for block in blocks:
        for name, text in re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END\n", block, re.M | re.S):
            Path(name).write_text(text, encoding="utf-8")
        for line in re.findall(r"^align (.*)$", block, re.M):
            assert align([*shlex.split(line), *overrides]) == 0, line
            ran += 1
    return len(blocks), ran
