"""`align data import` on files that people really have: every row is taken, or counted with its reason in a line."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.cli import run
from labeling.store import Store

LONG = "A sentence of an answer that does not end. " * 2400  # 100 KB
ARABIC = "ما هي عاصمة مصر؟ القاهرة (Cairo) 2024."


def pair(number, chosen="good", rejected="bad"):
    return {
        "prompt": f"question {number}",
        "chosen": f"{chosen} {number}",
        "rejected": f"{rejected} {number}",
    }


def as_line(row):
    return row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() + b"\n"


@pytest.fixture
def align_import(tmp_path, monkeypatch, capsys):
    """Imports a file of those bytes; gives the exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(name, content, *options):
        (tmp_path / name).write_bytes(content)
        code = run(["data", "import", name, *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_one_file_with_everything_in_it(align_import, tmp_path):
    dialogue = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i}"} for i in range(50)]
    rows = [
        pair(1),
        pair(1),  # once more
        {"prompt": "question 2", "chosen": "only this"},
        {"prompt": "question 3", "chosen": "this", "rejected": None},
        {"prompt": "question 4", "chosen": "the same", "rejected": "the same"},
        {"prompt": "question 5", "chosen": LONG, "rejected": "short"},
        b'{"prompt": "question 6", "chosen": "caf\xe9", "rejected": "b"}\n',
        {"prompt": ARABIC, "chosen": ARABIC * 2, "rejected": "عربي"},
        {"prompt": dialogue[:-1], "chosen": dialogue[-1:], "rejected": "turn 49, but another"},
        pair(8),
    ]
    code, out, err = align_import("all.jsonl", b"".join(map(as_line, rows)), "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["rows"], told["added"], told["duplicate"], told["rejected"]) == (10, 5, 1, 4)
    assert told["reasons"] == {
        "does not have what trl-preference needs: columns prompt, chosen and rejected": 2,
        "the two sides are the same": 1,
        "invalid UTF-8": 1,
    }
    rejected = [json.loads(line) for line in (tmp_path / "all.rejects.jsonl").read_text().splitlines()]
    assert [line["row"] for line in rejected] == [3, 4, 5, 7]
    store = Store.open(str(tmp_path / "align.db"))
    by_length = {len(view.prompt): view for view in store.comparisons()}
    texts = {side[0][0]["content"] for view in store.comparisons() for side in view.sides}
    store.engine.dispose()
    assert by_length[49].prompt == dialogue[:-1]
    assert {LONG, ARABIC * 2} <= texts


def test_the_report_is_one_line_a_reason(align_import):
    rows = [pair(i) for i in range(3)] + [{"prompt": "q", "chosen": "x", "rejected": "x"}] * 2
    code, _, err = align_import("x.jsonl", b"".join(map(as_line, rows)))
    assert code == 0
    assert "5 rows: 3 added (3 comparisons, 3 labels), 0 there already, 2 rejected\n" in err
    assert "2 rejected: the two sides are the same\n" in err
    assert "rejected rows are in x.rejects.jsonl" in err


@pytest.mark.parametrize(
    ("side", "reason"),
    [
        ({}, "does not have what trl-preference needs: columns prompt, chosen and rejected"),
        ({"rejected": None}, "does not have what trl-preference needs: columns prompt, chosen and rejected"),
        ({"rejected": ""}, "an answer is empty"),
        ({"rejected": " \n\t"}, "an answer is empty"),
        ({"rejected": []}, "column 'rejected' is not a list of turns"),
        ({"rejected": 5}, "column 'rejected' is not a list of turns"),
        ({"rejected": [{"role": "assistant"}]}, "a turn in 'rejected' is not text"),
        ({"rejected": [{"role": "user", "content": "?"}]}, "the two sides share no prompt"),
    ],
)
def test_a_missing_side_is_counted(align_import, side, reason):
    rows = [pair(1), pair(2), {"prompt": "question 3", "chosen": "an answer", **side}]
    code, out, _ = align_import("x.jsonl", b"".join(map(as_line, rows)), "--json")
    told = json.loads(out)
    assert (code, told["added"], told["rejected"]) == (0, 2, 1)
    [(found, count)] = told["reasons"].items()
    assert found.startswith(reason)
    assert count == 1


def parquet_with_bytes(path):
    """Text columns that hold bytes which are no text, as some writers leave them."""
    texts = pa.array([b"fine", b"caf\xe9"], pa.binary()).view(pa.string())
    columns = {name: texts if name == "chosen" else ["a", "b"] for name in ("prompt", "chosen", "rejected")}
    pq.write_table(pa.table(columns), path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.json", b'[{"prompt": "q", "chosen": "caf\xe9", "rejected": "b"}]', "can't decode byte 0xe9"),
        ("x.jsonl", "".join(map(json.dumps, [pair(1)])).encode("utf-16"), "invalid UTF-8 (row 1)"),
        ("x.jsonl", b"no JSON\nat all\n", "malformed JSON: Expecting value"),
        ("x.jsonl", as_line({"prompt": "q", "chosen": "x"}), "lack the prompt, chosen or rejected"),
        ("x.jsonl", as_line(pair(1)) + as_line({"prompt": "q", "rejected": "x"}) * 2, "or take its prompts"),
        ("x.parquet", b"PAR1 but not really", "x.parquet cannot be read"),
        ("x.jsonl", b"\n\n", "holds no rows"),
    ],
)
def test_what_cannot_be_imported_at_all_says_why_in_one_line(align_import, name, content, reason):
    code, out, err = align_import(name, content)
    assert (code, out) == (1, "")
    assert reason in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 2  # what is wrong, and what to do


def test_a_parquet_file_whose_text_is_none(align_import, tmp_path):
    code, _, err = align_import("x.parquet", parquet_with_bytes(tmp_path / "made.parquet"))
    assert code == 1
    assert "x.parquet cannot be read" in err
    assert "Traceback" not in err


def test_prompts_of_unfinished_preferences_are_taken_when_asked_for(align_import):
    code, _, err = align_import("x.jsonl", as_line({"prompt": "q", "chosen": "x"}), "--format", "prompts")
    assert code == 0
    assert "1 rows: 1 added (1 prompts)" in err
