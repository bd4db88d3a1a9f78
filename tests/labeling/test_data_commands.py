"""`align data` and `align label` on a store of their own: output, exit codes, one-line errors."""

from __future__ import annotations

import json

import pytest

from alignment.cli import run

PAIRS = "".join(
    json.dumps({"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"}) + "\n" for i in range(20)
)


@pytest.fixture
def align(tmp_path, monkeypatch, capsys):
    """Runs a command in a fresh folder; gives its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(PAIRS + "{broken\n")

    def call(command: str) -> tuple[int, str, str]:
        code = run(command.split())
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_import_to_snapshot(align, tmp_path):
    code, out, err = align("data import pairs.jsonl --json")
    assert code == 0
    figures = json.loads(out)
    assert (figures["format"], figures["rows"], figures["added"], figures["rejected"]) == (
        "trl-preference", 21, 20, 1,
    )  # fmt: skip
    assert figures["rejects_path"] == "pairs.rejects.jsonl"
    assert json.loads((tmp_path / "pairs.rejects.jsonl").read_text())["row"] == 21
    code, out, err = align("data import pairs.jsonl")
    assert (code, out) == (0, "")
    assert "21 rows: 0 added, 20 there already, 1 rejected" in err

    code, out, err = align("data snapshot --out snapshots --test-share 0.3")
    assert code == 0
    assert (tmp_path / out.strip() / "train.parquet").exists()
    code, out, err = align("data snapshot --out snapshots --json")
    taken = json.loads(out)
    assert taken["train"] + taken["test"] == 20
    assert taken["left_out"] == {"both_bad": 0}

    assert json.loads(align("data stats --json")[1])["labels.import"] == 20
    assert "comparisons             20" in align("data stats")[1]
    shown = align("data show --limit 2")[1]
    assert shown.count("comparison ") == 2
    assert "import-pairs (import) prefers [" in shown
    assert "20 rows" in align("data export prompts --out prompts.jsonl")[2]
    assert "0 rows" in align("data export sft --out sft.jsonl")[2]
    assert "20 labels in labels.csv" in align("label export --out labels.csv")[2]
    assert json.loads(align("label stats --json")[1])["labels"] == 20
    assert "import-pairs" in align("label stats")[1]


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("data import none.jsonl", 1, "no file or folder none.jsonl"),
        ("data import pairs.jsonl --format alpacca", 1, "did you mean 'alpaca'?"),
        ("data import", 2, "Missing argument"),
        ("data import pairs.jsonl --limit 0", 2, "--limit"),
        ("data snapshot --out snapshots", 1, "no store at align.db"),
        ("data stats --store pairs.jsonl", 1, "not a database"),
        ("data stats --store mysql://x/y", 1, "not in mysql"),
        ("data export images --out x", 2, "images"),
        ("label export --out labels.csv", 1, "no store at align.db"),
    ],
)
def test_mistakes_are_one_line(align, command, code, message):
    found, out, err = align(command)
    assert found == code
    assert message in err
    assert out == ""
    assert "Traceback" not in err
