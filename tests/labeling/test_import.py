"""Importing: kinds of file, bad input, twice and overlapping, killed midway."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.errors import LabelingError
from labeling.importers import import_path
from labeling.snapshot import read_snapshot, take_snapshot
from labeling.views import NewCompletion

PAIRS = [{"prompt": f"q{i} 你好 é", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(6)]


def write_lines(path: Path, rows) -> Path:
    data = b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_csv(path: Path) -> Path:
    mark = "\t" if ".tsv" in path.name else ","
    lines = [mark.join(PAIRS[0]), *(mark.join(row.values()) for row in PAIRS)]
    data = ("\ufeff" + "\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_json(path: Path) -> Path:
    path.write_text(json.dumps(PAIRS, indent=1), encoding="utf-8-sig")
    return path


def write_parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(PAIRS), path)
    return path


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.jsonl", lambda p: write_lines(p, PAIRS)),
        ("x.jsonl.gz", lambda p: write_lines(p, PAIRS)),
        ("lines.json", lambda p: write_lines(p, PAIRS)),
        ("x.json", write_json),
        ("x.csv", write_csv),
        ("x.tsv.gz", write_csv),
        ("x.parquet", write_parquet),
    ],
)
def test_kinds_of_file(sqlite_store, tmp_path, name, write):
    report = import_path(sqlite_store, write(tmp_path / name), rejects=tmp_path / "rejects.jsonl")
    assert report.format == "trl-preference"
    assert report.why == "6 of the first 6 rows have columns prompt, chosen and rejected"
    assert report.counts == {
        "rows": 6, "added": 6, "duplicate": 0, "rejected": 0, "comparisons": 6, "labels": 6,
    }  # fmt: skip
    assert report.rejects_path is None
    assert not (tmp_path / "rejects.jsonl").exists()
    labels = {label.comparison_id: label.p_first for label in sqlite_store.effective_labels()}
    for view in sqlite_store.comparisons():
        chosen = view.sides[0 if labels[view.id] == 1.0 else 1][0][0]["content"]
        assert chosen == "good " + view.prompt[0]["content"][1]
        assert view.prompt[0]["content"].endswith("你好 é")


def test_bad_rows_are_counted_and_kept_with_their_reason(store, tmp_path):
    rows = [
        PAIRS[0],
        b'{"prompt": "q", "chosen": \n',
        b'{"prompt": "caf\xe9", "chosen": "a", "rejected": "b"}\n',
        b"\n",
        b"[1, 2]\n",
        {"prompt": "q", "chosen": "a"},
        {"prompt": "q", "chosen": "a", "rejected": "a"},
        {"prompt": "q", "chosen": "a", "rejected": " "},
        {"prompt": " ", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "\ud800"},
        b'{"prompt": "q", "chosen": "a", "rejected": "b", "score": NaN}\n',
        PAIRS[1],
    ]
    source = write_lines(tmp_path / "x.jsonl", rows)
    report = import_path(store, source, rejects=tmp_path / "out" / "rejects.jsonl")
    assert report.counts["rows"] == 11  # the blank line is none
    assert (report.counts["added"], report.counts["rejected"]) == (2, 9)
    assert sum(report.reasons.values()) == 9
    assert report.rejects_path == tmp_path / "out" / "rejects.jsonl"
    lines = [json.loads(line) for line in report.rejects_path.read_text(encoding="utf-8").splitlines()]
    reasons = {line["row"]: line["reason"] for line in lines}
    assert reasons.pop(2).startswith("malformed JSON: ")
    assert reasons.pop(11).startswith("malformed JSON: NaN")
    assert reasons == {
        3: "invalid UTF-8",
        5: "not an object with columns",
        6: "does not have what trl-preference needs: columns prompt, chosen and rejected",
        7: "the two sides are the same",
        8: "an answer is empty",
        9: "the prompt's last turn is empty",
        10: "the completion's assistant message holds invalid UTF-8",
    }
    assert lines[0]["raw"] == '{"prompt": "q", "chosen": '
    assert lines[4]["raw"] == {"prompt": "q", "chosen": "a", "rejected": "a"}
    assert store.counts()["comparisons"] == 2
    text = report.as_text()
    assert "11 rows: 2 added (2 comparisons, 2 labels), 0 there already, 9 rejected" in text


def test_csv_rows_that_do_not_match_the_header(sqlite_store, tmp_path):
    (tmp_path / "x.csv").write_bytes(
        b'prompt,chosen,rejected\nq,a\nq,a,b,c\nq,\xff,b\n"two\nlines",a,b\nq,,b\n'
    )
    report = import_path(sqlite_store, tmp_path / "x.csv", rejects=tmp_path / "rejects.jsonl")
    assert report.counts["added"] == 1
    lines = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [(line["row"], line["reason"].partition(":")[0]) for line in lines] == [
        (2, "fewer cells than the header has columns"),
        (3, "more cells than the header has columns"),
        (4, "the completion's assistant message holds invalid UTF-8"),
        (7, "does not have what trl-preference needs"),
    ]


def test_hard_text_goes_through(store, tmp_path):
    long_answer = "long " * 20_000  # 100 KB
    dialogue = [{"role": "user" if i % 2 == 0 else "assistant", "content": f"turn {i}"} for i in range(49)]
    rows = [
        {"prompt": "q", "chosen": long_answer, "rejected": "b"},
        {"prompt": "שלום \u202eעולם", "chosen": "مرحبا", "rejected": "b\x00"},
        {"prompt": dialogue, "chosen": "a", "rejected": "b"},
    ]
    report = import_path(store, write_lines(tmp_path / "x.jsonl", rows), rejects=tmp_path / "r.jsonl")
    assert report.counts["added"] == 3
    views = list(store.comparisons())
    assert [len(view.prompt) for view in views] == [1, 1, 49]
    assert long_answer in [side[0][0]["content"] for side in views[0].sides]
    assert take_snapshot(store, tmp_path / "snapshots").counts["train"] > 0


def test_the_same_rows_again_add_nothing(store, tmp_path):
    first = write_lines(tmp_path / "one.jsonl", PAIRS[:4])
    second = write_lines(tmp_path / "two.jsonl", [*PAIRS[2:], PAIRS[2]])
    import_path(store, first)
    before = store.counts()
    assert import_path(store, first).counts["duplicate"] == 4
    assert store.counts() == before
    overlapping = import_path(store, second)
    assert (overlapping.counts["added"], overlapping.counts["duplicate"]) == (2, 3)
    assert store.counts()["labels.import"] == 6


def test_opposite_preferences_are_two_labels(store, tmp_path):
    turned = [{"prompt": r["prompt"], "chosen": r["rejected"], "rejected": r["chosen"]} for r in PAIRS]
    import_path(store, write_lines(tmp_path / "one.jsonl", PAIRS))
    report = import_path(store, write_lines(tmp_path / "two.jsonl", turned))
    assert report.counts["labels"] == 6
    assert "comparisons" not in report.counts
    assert sorted(label.p_first for label in store.effective_labels()) == [0.0] * 6 + [1.0] * 6


def test_a_preference_for_a_comparison_that_is_there(store, tmp_path, ask, answer):
    """Its sides stand in an order of their own, which the label must follow."""
    for i, sides in enumerate([("good", "bad"), ("bad", "good")]):
        store.add_comparison(ask(f"q{i}"), [answer(side) for side in sides])
    rows = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad"} for i in range(2)]
    report = import_path(store, write_lines(tmp_path / "x.jsonl", rows))
    assert report.counts["labels"] == 2
    assert [label.p_first for label in store.effective_labels()] == [1.0, 0.0]


def test_positions_do_not_tell_the_preferred_side(sqlite_store, tmp_path):
    rows = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(200)]
    import_path(sqlite_store, write_lines(tmp_path / "x.jsonl", rows))
    firsts = sum(label.p_first for label in sqlite_store.effective_labels())
    assert 70 < firsts < 130


def test_scores_become_margins_and_ties(store, tmp_path):
    rows = [
        {"prompt": "q1", "chosen": "a", "rejected": "b", "score_chosen": 9, "score_rejected": 6.5},
        {"prompt": "q2", "chosen": "a", "rejected": "b", "score_chosen": 5, "score_rejected": 5},
    ]
    report = import_path(store, write_lines(tmp_path / "x.jsonl", rows))
    assert report.counts["ties"] == 1
    path = take_snapshot(store, tmp_path / "snapshots", test_share=0).path
    found = [(r["p_chosen"], r["margin"], r["source"]) for r in read_snapshot(path).train.to_pylist()]
    assert sorted(found) == [(0.5, 0.0, "import"), (1.0, 2.5, "import")]


def test_named_columns_and_limit(sqlite_store, tmp_path):
    rows = [{"text": f"t{i}", "reply": f"r{i}", "tag": "x", "scores": {"a": 1}} for i in range(10)]
    source = write_lines(tmp_path / "x.jsonl", rows)
    report = import_path(sqlite_store, source, prompt_column="text", response_column="reply", limit=7)
    assert (report.format, report.counts["answers"], report.not_kept) == ("columns", 7, ["scores"])
    report = import_path(sqlite_store, source, prompt_column="text")
    assert report.counts["prompts"] == 3
    with pytest.raises(LabelingError, match="unknown format 'alpacca'; did you mean 'alpaca'"):
        import_path(sqlite_store, source, format="alpacca")


def test_damaged_files_keep_what_came_before(sqlite_store, tmp_path):
    whole = gzip.compress(
        b"".join(json.dumps({"prompt": os.urandom(40).hex()}).encode() + b"\n" for _ in range(900))
    )
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(
        LabelingError, match=r"cut.jsonl.gz cannot be read: .*after row \d+; the rows up to there"
    ):
        import_path(sqlite_store, tmp_path / "cut.jsonl.gz")
    assert 400 < sqlite_store.counts()["prompts"] < 900
    (tmp_path / "x.jsonl.gz").write_bytes(b"not gzip")
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    (tmp_path / "x.json").write_text('[{"prompt": "q"},')
    (tmp_path / "x.csv").write_text('prompt\n"never closed')
    (tmp_path / "x.xlsx").write_bytes(b"PK")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for name, message in [
        ("x.jsonl.gz", "cannot be read"),
        ("x.parquet", "cannot be read"),
        ("x.json", "cannot be read: .*line 1 column"),
        ("x.csv", "cannot be read: unexpected end of data"),
        ("x.xlsx", "unknown kind of file; known: .jsonl"),
        ("empty.jsonl", "holds no rows"),
        ("none.jsonl", "no file or folder"),
    ]:
        with pytest.raises(LabelingError, match=message) as caught:
            import_path(sqlite_store, tmp_path / name)
        assert "\n" not in str(caught.value)


def test_folders_that_datasets_reads(sqlite_store, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    both = datasets.DatasetDict({s: datasets.Dataset.from_list(PAIRS) for s in ("train", "test")})
    both.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(LabelingError, match=r"has the splits train, test: name one, as in .*saved:train"):
        import_path(sqlite_store, str(tmp_path / "saved"))
    with pytest.raises(LabelingError, match="has the splits"):
        import_path(sqlite_store, f"{tmp_path / 'saved'}:other")
    assert import_path(sqlite_store, f"{tmp_path / 'saved'}:test").counts["added"] == 6
    (tmp_path / "plain").mkdir()
    write_lines(tmp_path / "plain" / "train.jsonl", PAIRS)
    assert import_path(sqlite_store, str(tmp_path / "plain")).counts["duplicate"] == 6


def test_a_hub_that_cannot_be_reached_is_one_line(sqlite_store):
    pytest.importorskip("datasets")
    with pytest.raises(LabelingError, match="cannot load data set nobody/nothing: ") as caught:
        import_path(sqlite_store, "nobody/nothing")
    assert "\n" not in str(caught.value)


def test_progress_counts_every_row(sqlite_store, tmp_path):
    rows = [{"prompt": f"q{i}"} for i in range(1203)]
    seen: list[int] = []
    import_path(sqlite_store, write_lines(tmp_path / "x.jsonl", rows), progress=seen.append)
    assert sum(seen) == 1203
    assert len(seen) > 1


KILLED = """
import os, signal, sys
from labeling.importers import import_path
from labeling.store import Store
from labeling.writes import Session

flush = Session.execute
calls = 0

def execute(self, *args, **kwargs):  # dies in the middle of the third page's transaction
    global calls
    result = flush(self, *args, **kwargs)
    calls += "INSERT INTO comparison_side" in str(args[0])
    if calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

Session.execute = execute
import_path(Store.open(sys.argv[1]), sys.argv[2])
"""


def test_a_killed_import_is_completed_by_running_it_again(store, store_url, tmp_path):
    rows = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(1700)]
    source = write_lines(tmp_path / "x.jsonl", rows)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, store_url, str(source)], cwd=Path(__file__).parents[2], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    counts = store.counts()
    assert counts["comparisons"] == counts["labels"] == counts["prompts"] == 1000
    assert counts["completions"] == 2000
    report = import_path(store, source)
    assert (report.counts["added"], report.counts["duplicate"]) == (700, 1000)
    assert store.counts() == {
        "prompts": 1700, "completions": 3400, "comparisons": 1700, "labels": 1700, "labels.import": 1700,
    }  # fmt: skip


def test_answers_and_preferences_share_completions(store, tmp_path, ask):
    pairs = [{"prompt": "q", "chosen": "a", "rejected": "b"}]
    answers = [{"prompt": "q", "completion": "a"}]
    import_path(store, write_lines(tmp_path / "pairs.jsonl", pairs))
    report = import_path(store, write_lines(tmp_path / "answers.jsonl", answers))
    assert report.counts["duplicate"] == 1
    assert store.counts()["completions"] == 2
    again = store.add_comparison(
        ask("q"), [NewCompletion([{"role": "assistant", "content": c}]) for c in "ab"]
    )
    assert again.outcome == "duplicate"
