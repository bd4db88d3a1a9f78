"""Snapshots in the forms that other tools read."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from labeling.errors import LabelingError
from labeling.snapshot import read_snapshot
from labeling.snapshot_forms import SnapshotForm, export_snapshot
from labeling.views import NewLabel


@pytest.fixture
def labelled(store, ask, answer):
    ann = store.annotator("ann", "human")
    for i in range(20):
        added = store.add_comparison(ask(f"q{i} é"), [answer("good"), answer("bad")]).comparison_id
        store.add_label(NewLabel(added, ann, "preference", 1.0, [1, 0], f"k{i}", strength=2))
    return store


def test_every_form_holds_the_rows_of_the_snapshot(labelled, tmp_path):
    parquet, jsonl, hf = (export_snapshot(labelled, tmp_path, form, test_share=0.4) for form in SnapshotForm)
    tables = read_snapshot(parquet, verify=True)
    assert (jsonl.name, hf.name) == (f"{parquet.name}-jsonl", f"{parquet.name}-hf")
    for split, table in (("train", tables.train), ("test", tables.test)):
        assert table.num_rows > 0
        lines = (jsonl / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == table.to_pylist()
        assert pq.read_table(hf / "data" / f"{split}.parquet").equals(table)
    for folder in (jsonl, hf):
        assert json.loads((folder / "manifest.json").read_text()) == tables.manifest


def test_the_dataset_folder_loads_by_itself(labelled, tmp_path):
    from datasets import load_dataset

    folder = export_snapshot(labelled, tmp_path, SnapshotForm.hf, test_share=0.4)
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert {split: len(rows) for split, rows in loaded.items()} == {
        "train": counts["train"],
        "test": counts["test"],
    }
    assert counts["test"] > 0
    row = loaded["train"][0]
    assert row["chosen"] == [{"role": "assistant", "content": "good"}]
    assert row["p_chosen"] == pytest.approx(0.8808, abs=1e-4)
    assert row["margin"] == 2.0


def test_a_split_without_rows_has_no_file(labelled, tmp_path):
    folder = export_snapshot(labelled, tmp_path, SnapshotForm.jsonl, test_share=0)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "train.jsonl"]


def test_the_same_labels_give_the_same_folder_and_nothing_is_left_over(labelled, tmp_path):
    assert len({export_snapshot(labelled, tmp_path, SnapshotForm.hf) for _ in range(2)}) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_nothing_to_export(sqlite_store, tmp_path):
    with pytest.raises(LabelingError, match="nothing to snapshot"):
        export_snapshot(sqlite_store, tmp_path / "out", SnapshotForm.hf)
