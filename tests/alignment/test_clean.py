"""`align data clean` on files: every row is accounted for, runs repeat themselves, and nothing half-done is left."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from alignment.cli import run as align
from alignment.data_cleaning import CleaningRules, clean_files
from alignment.errors import AlignmentError, ConfigError
from labeling.errors import LabelingError


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


QUESTIONS = [
    {"prompt": "Where is the river inn?", "completion": "Near the old bridge, on the left."},
    {"prompt": "Where is the  river inn?", "completion": "Near the old bridge, on the left."},
    {"prompt": "Is it cheap?", "completion": " "},
    {"question": "Is it cheap?"},
    {"prompt": "Is it dear?", "completion": "It is."},
]


def test_every_row_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one.jsonl", QUESTIONS)
    turns = [{"from": "human", "value": "Is it dear?"}, {"from": "gpt", "value": "It is."}]
    two = write(tmp_path / "two.jsonl", [{"conversations": turns}, {"conversations": turns[:1]}])
    out = tmp_path / "new" / "clean.jsonl"
    assert align(["data", "clean", one, two, "--out", str(out), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["rows"], figures["kept"]) == (7, 2)
    assert figures["left_out"] == {"unreadable": 3, "exact duplicate": 2}
    assert figures["files"][two] == {"rows": 2, "unreadable": 1, "exact duplicate": 1}
    assert read(out) == [QUESTIONS[0], QUESTIONS[4]]
    left = read(out.with_name("clean.rejects.jsonl"))
    assert [(r["file"], r["row"], r["reason"]) for r in left] == [
        (one, 2, "exact duplicate"),
        (one, 3, "unreadable"),
        (one, 4, "unreadable"),
        (two, 1, "exact duplicate"),
        (two, 2, "unreadable"),
    ]
    assert left[1]["why"] == "an answer is empty"
    assert left[3]["of"] == {"file": one, "row": 5}  # in whichever format it stands
    assert [r["raw"] for r in left[:3]] == QUESTIONS[1:4]
    assert align(["data", "clean", one, "--out", str(out)]) == 1
    assert "already exists" in capsys.readouterr().err
    assert align(["data", "clean", one, "--out", str(out), "--overwrite", "--script", "han"]) == 0
    shown = capsys.readouterr()
    assert "other script" in shown.out
    assert "0 rows in" in shown.err


def test_planted_rows_leave_real_data_and_nothing_else_of_their_kind_does(
    shared_data: Path, tmp_path: Path
) -> None:
    """60 rows of the Chinese and English demos come back: as they are, with a word changed, and in an evaluation."""
    found = {}
    for name in ("zh", "en"):
        source = shared_data / f"llamafactory_alpaca_{name}_demo.jsonl.gz"
        with gzip.open(source, "rt", encoding="utf-8") as lines:
            found[name] = [json.loads(line) for line in lines][:200]
    rows = found["zh"] + found["en"]
    plain = clean_files([write(tmp_path / "as_it_is.jsonl", rows)], tmp_path / "plain.jsonl", CleaningRules())
    kept = read(tmp_path / "plain.jsonl")
    long = [row for row in kept if len(row["output"]) > 200][:40]
    copies = [{**row, "output": f"  {row['output']}\n"} for row in long[:20]]
    edited = [
        {**row, "output": row["output"].replace(row["output"][100:104], " xx ", 1)} for row in long[20:]
    ]
    asked = [row for row in kept if row not in long and len(row["instruction"]) > 60][:20]
    against = write(tmp_path / "test.jsonl", [{"prompt": row["instruction"]} for row in asked])
    planted = write(tmp_path / "planted.jsonl", [*kept, *copies, *edited])
    report = clean_files([planted], tmp_path / "clean.jsonl", CleaningRules(), against=[against]).as_dict()
    assert plain.total("kept") > 390
    assert report["left_out"] == {"contaminated": 20, "exact duplicate": 20, "near duplicate": 20}
    assert report["kept"] == len(kept) - 20
    left = read(tmp_path / "clean.rejects.jsonl")
    assert all(r["row"] > len(kept) for r in left if r["reason"] != "contaminated")
    assert [r["raw"] for r in left if r["reason"] == "contaminated"] == asked
    again = clean_files([planted], tmp_path / "again.jsonl", CleaningRules(), against=[against])
    assert again.out.read_bytes() == (tmp_path / "clean.jsonl").read_bytes()
    assert again.rejects.read_bytes() == (tmp_path / "clean.rejects.jsonl").read_bytes()


def test_what_cannot_be_cleaned_is_said(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", QUESTIONS)
    out = tmp_path / "clean.jsonl"
    with pytest.raises(ConfigError, match="is read and would be written"):
        clean_files([good], Path(good), CleaningRules(), overwrite=True)
    with pytest.raises(ConfigError, match="is read and would be written"):
        clean_files(
            [good], out, CleaningRules(), against=[write(tmp_path / "clean.rejects.jsonl", QUESTIONS)]
        )
    with pytest.raises(AlignmentError, match="holds no rows"):
        clean_files([write(tmp_path / "empty.jsonl", [])], out, CleaningRules())
    with pytest.raises(LabelingError, match="cannot tell the format"):
        clean_files([write(tmp_path / "odd.jsonl", [{"a": 1}])], out, CleaningRules())
    with pytest.raises(LabelingError, match="no file or folder"):
        clean_files([good, str(tmp_path / "missing.jsonl")], out, CleaningRules())
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in QUESTIONS * 99).encode())[:-40])
    with pytest.raises(LabelingError, match=r"torn\.jsonl\.gz cannot be read"):
        clean_files([good, str(torn)], out, CleaningRules())
    assert sorted(p.name for p in tmp_path.iterdir() if "clean" in p.name) == ["clean.rejects.jsonl"]
    assert read(tmp_path / "clean.rejects.jsonl") == QUESTIONS  # not written over


def test_a_kill_leaves_no_half_file(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} " * 30, "completion": f"{i * i} " * 30} for i in range(4000)]
    many, out = write(tmp_path / "many.jsonl", rows), tmp_path / "clean.jsonl"
    main = "from alignment.cli import main; main()"
    command = [sys.executable, "-c", main, "data", "clean", many, "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    while not (aside := list(tmp_path.glob(".clean.jsonl.*.tmp"))) or not aside[0].stat().st_size:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert not out.with_name("clean.rejects.jsonl").exists()
    clean_files([many], out, CleaningRules(near=None))
    assert len(read(out)) == len(rows)
    assert not list(tmp_path.glob(".*.tmp"))
