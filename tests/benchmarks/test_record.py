"""Every benchmark writes the same record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.record import print_figures

ROOT = Path(__file__).parents[2]
CODE = """
from benchmarks.record import run
run("try", "A try", lambda quick: {"tokens_per_second": 12.5 if quick else 99.0, "steps": 3})
"""


def test_a_benchmark_prints_a_table_and_writes_its_record(tmp_path: Path) -> None:
    file = tmp_path / "new" / "try.json"
    command = [sys.executable, "-c", CODE, "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "tokens_per_second" in done.stdout
    record = json.loads(file.read_text())
    assert record["figures"] == {"tokens_per_second": 12.5, "steps": 3}
    assert record["command"] == f"python -m benchmarks.try --quick --json {file}"
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["memory_gib"] > 0
    assert record["machine"]["torch"]


def test_the_table_shows_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_figures("A try", {"facts": "price[low]"})
    assert "price[low]" in capsys.readouterr().out
