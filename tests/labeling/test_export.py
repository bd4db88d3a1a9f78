"""What comes out again: SFT data, prompts, labels as tables, figures and text to read."""

from __future__ import annotations

import csv
import json

import pyarrow.parquet as pq
import pytest

from labeling.errors import LabelingError
from labeling.export import LABEL_COLUMNS, export_labels, export_prompts, export_sft, harmless
from labeling.figures.dashboard import read_dashboard
from labeling.importers import import_path
from labeling.overview import data_figures, label_figures, show
from labeling.views import NewLabel


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def filled(store, tmp_path, ask, answer):
    """KTO answers, and a comparison with the labels of a person and a judge."""
    rows = [
        {"prompt": "q1 é", "completion": "good", "label": True},
        {"prompt": "q1 é", "completion": "bad", "label": False},
        {"prompt": "q2", "completion": "fine", "label": True},
    ]
    source = tmp_path / "kto.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_path(store, source)
    comparison = store.add_comparison(ask("q3"), [answer("a", "m1"), answer("b" * 400)]).comparison_id
    ann, judge = store.annotator("ann", "human"), store.annotator("judge", "judge")
    store.add_label(NewLabel(comparison, ann, "preference", 1.0, [1, 0], "k1", 2, "=HYPERLINK(1)", 2.5))
    store.add_label(NewLabel(comparison, judge, "preference", 0.25, [[0, 1], [1, 0]], "k2"))
    return store


def test_sft_holds_only_answers_worth_imitating(filled, tmp_path):
    assert export_sft(filled, tmp_path / "out" / "sft.jsonl") == 2
    assert lines(tmp_path / "out" / "sft.jsonl") == [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": completion}],
        }
        for prompt, completion in [("q1 é", "good"), ("q2", "fine")]
    ]


def test_prompts(filled, tmp_path):
    assert export_prompts(filled, tmp_path / "prompts.jsonl") == 3
    assert [row["prompt"][0]["content"] for row in lines(tmp_path / "prompts.jsonl")] == ["q1 é", "q2", "q3"]


def test_exported_sft_data_comes_back_in(filled, tmp_path):
    export_sft(filled, tmp_path / "sft.jsonl")
    report = import_path(filled, tmp_path / "sft.jsonl")
    assert (report.format, report.counts["duplicate"]) == ("prompt-response", 2)


def test_labels_as_tables(filled, tmp_path):
    for suffix in ("csv", "jsonl", "parquet"):
        assert export_labels(filled, tmp_path / f"labels.{suffix}") == 2
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert table[0]["rationale"] == "'=HYPERLINK(1)"
    assert (table[0]["annotator"], table[0]["strength"], table[0]["shown_order"]) == ("ann", "2", "[1, 0]")
    first = lines(tmp_path / "labels.jsonl")[0]
    assert (first["rationale"], first["shown_order"], first["seconds"]) == ("=HYPERLINK(1)", [1, 0], 2.5)
    parquet = pq.read_table(tmp_path / "labels.parquet")
    assert parquet.column_names == list(LABEL_COLUMNS)
    assert parquet["p_first"].to_pylist() == [1.0, 0.25]
    assert parquet["seconds"].to_pylist() == [2.5, None]


def test_exports_that_cannot_be_written(filled, tmp_path):
    with pytest.raises(LabelingError, match=r"end it in .csv, .jsonl, .parquet"):
        export_labels(filled, tmp_path / "labels.xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(LabelingError, match="cannot write"):
        export_labels(filled, tmp_path / "file" / "labels.csv")
    (tmp_path / "old.csv").write_text("old")
    assert export_labels(filled, tmp_path / "old.csv") == 2
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_formulas_are_made_harmless(text):
    assert harmless(text) == "'" + text


@pytest.mark.parametrize("value", ["a=b", "", -1.5, 3, None])
def test_everything_else_stays(value):
    assert harmless(value) == value


def test_figures(filled):
    figures = data_figures(filled)
    assert {key: figures[key] for key in ("prompts", "comparisons", "references", "labels.human")} == {
        "prompts": 3, "comparisons": 1, "references": 2, "labels.human": 1,
    }  # fmt: skip
    (imported,) = figures["imports"]
    assert (imported["format"], imported["rows"], imported["added"]) == ("kto", 3, 3)
    labels = label_figures(filled, read_dashboard(filled))
    assert labels["annotators"][0] == {
        "name": "ann", "kind": "human", "labels": 1, "verdicts": {"preference": 1},
    }  # fmt: skip
    assert labels["agreement"]["judge_human"] == 0.0
    assert labels["agreement"]["human_alpha"] is None


def test_rows_to_read(filled):
    (text,) = show(filled, 3, width=40)
    assert "user: q3" in text
    assert "[0] m1" in text
    assert "bbb…" in text
    assert "ann (human) prefers [0], p 1.00, strength 2" in text
    assert "judge (judge) prefers [1], p 0.75" in text


def test_prompts_to_read(sqlite_store, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "only a prompt"}')
    import_path(sqlite_store, tmp_path / "p.jsonl")
    assert list(show(sqlite_store, 3)) == ["prompt\n  user: only a prompt"]
