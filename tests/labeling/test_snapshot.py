"""Snapshots: what a label becomes, content addressing, the split by group, loading with datasets."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling.errors import LabelingError
from labeling.rows import rows_of
from labeling.snapshot import COLUMNS, draw, read_snapshot, take_snapshot
from labeling.store import Store
from labeling.views import ComparisonView, LabelView, NewComparison, NewLabel


def view(sides: int = 2) -> ComparisonView:
    answers = tuple(([{"role": "assistant", "content": "ABCDEFGHI"[i]}], "m") for i in range(sides))
    return ComparisonView(7, [{"role": "user", "content": "q"}], answers, "g" * 64)


def label(verdict="preference", p_first=1.0, strength=0, kind="human", **meta) -> LabelView:
    from labeling.schema import now

    return LabelView(1, 7, 1, "ann", kind, verdict, p_first, strength, [0, 1], "", None, meta, now())


def sides_of(row) -> tuple[str, str]:
    return row["chosen"][0]["content"], row["rejected"][0]["content"]


@pytest.mark.parametrize(
    ("given_label", "sides", "p_chosen", "margin"),
    [
        (label(p_first=1.0), ("A", "B"), 1.0, 0.0),
        (label(p_first=0.25), ("B", "A"), 0.75, 0.0),
        (label(p_first=1.0, strength=1), ("A", "B"), 0.7310585786300049, 1.0),
        (label(p_first=0.0, strength=2), ("B", "A"), 0.8807970779778823, 2.0),
        (label(p_first=0.0, strength=3), ("B", "A"), 0.9525741268224334, 3.0),
        (label(p_first=0.0, margin=2.5), ("B", "A"), 1.0, 2.5),
        (label("tie", p_first=0.5), ("A", "B"), 0.5, 0.0),
        (label("tie", p_first=0.9, strength=3), ("A", "B"), 0.5, 0.0),
    ],
)
def test_a_pair_becomes_one_row(given_label, sides, p_chosen, margin):
    (row,) = rows_of(given_label, view())
    assert sides_of(row) == sides
    assert row["p_chosen"] == pytest.approx(p_chosen, abs=1e-12)
    assert (row["margin"], row["weight"]) == (margin, 1.0)
    assert (row["annotator"], row["comparison_id"], row["group"]) == ("ann", 7, "g" * 64)
    assert set(row) == set(COLUMNS.names)


def test_sources():
    assert [
        rows_of(label(kind=k), view())[0]["source"] for k in ("human", "judge", "scripted", "import")
    ] == [
        "human",
        "judge",
        "human",
        "import",
    ]


def test_both_bad_gives_no_row():
    assert rows_of(label("both_bad", 0.5), view()) == []


def test_a_ranking_becomes_its_pairs():
    rows = rows_of(label("ranking", 0.5, ranks=[2, 1, 2]), view(3))
    assert [(sides_of(row), row["p_chosen"]) for row in rows] == [
        (("B", "A"), 1.0),
        (("A", "C"), 0.5),
        (("B", "C"), 1.0),
    ]
    assert [row["weight"] for row in rows] == [1 / 3] * 3


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9))
def test_a_ranking_weighs_as_much_as_a_pair(ranks):
    rows = rows_of(label("ranking", 0.5, ranks=ranks), view(len(ranks)))
    assert math.isclose(sum(row["weight"] for row in rows), 1.0)
    place = {"ABCDEFGHI"[i]: rank for i, rank in enumerate(ranks)}
    for row in rows:
        chosen, rejected = (place[s] for s in sides_of(row))
        assert (chosen < rejected) if row["p_chosen"] == 1.0 else (chosen == rejected)


def fill(store: Store, ask, answer, prompts: int = 50) -> None:
    """Two comparisons a prompt, three annotators of three kinds with every verdict."""
    added = store.add_comparisons(
        NewComparison(ask(f"q{i % prompts} é 你"), [answer(f"a{i}"), answer(f"b{i}")])
        for i in range(2 * prompts)
    )
    ann, bot = store.annotator("ann", "human"), store.annotator("scripted-1", "scripted")
    judge = store.annotator("judge", "judge")
    for n, item in enumerate(added):
        i = item.comparison_id
        store.add_labels(
            [
                NewLabel(i, judge, "preference", 0.8 if n % 3 else 0.1, [[0, 1], [1, 0]], f"j{i}"),
                NewLabel(i, ann, "tie" if n % 10 == 0 else "preference", float(n % 2), [0, 1], f"a{i}"),
                NewLabel(
                    i, bot, "both_bad" if n % 25 == 0 else "preference", 1.0, [1, 0], f"s{i}", 1 + n % 3
                ),
            ]
        )


def test_snapshot_holds_every_effective_label(store, ask, answer, tmp_path):
    fill(store, ask, answer)
    first = next(store.effective_labels())
    store.add_label(
        NewLabel(
            first.comparison_id, first.annotator_id, "both_bad", 0.5, [0, 1], "x", supersedes_id=first.id
        )
    )
    snapshot = take_snapshot(store, tmp_path / "snapshots")
    data = read_snapshot(snapshot.path, verify=True)
    assert data.train.schema.equals(COLUMNS)
    rows = pa.concat_tables([data.train, data.test]).to_pylist()
    assert len(rows) == 300 - 4 - 1
    counts = data.manifest["counts"]
    assert counts == snapshot.counts
    assert counts["train"] + counts["test"] == len(rows)
    assert counts["left_out"] == {"both_bad": 5}
    assert counts["ties"] == 10
    assert counts["annotators"] == {"ann": 100, "judge": 99, "scripted-1": 96}
    assert sum(split["judge"] for split in counts["sources"].values()) == 99
    one = next(row for row in rows if row["annotator"] == "scripted-1" and row["margin"] == 2.0)
    assert one["prompt"][0]["content"].endswith("é 你")
    groups = [set(table["group"].to_pylist()) for table in (data.train, data.test)]
    assert groups[0]
    assert groups[1]
    assert not groups[0] & groups[1]


def test_same_content_same_hash_and_bytes(ask, answer, tmp_path):
    folders = []
    for name in ("one", "two"):
        store = Store.open(str(tmp_path / f"{name}.db"))
        fill(store, ask, answer)
        folders.append(take_snapshot(store, tmp_path / name).path)
    assert folders[0].name == folders[1].name
    for file in ("train.parquet", "test.parquet", "manifest.json"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()


def test_snapshots_do_not_change(sqlite_store, ask, answer, tmp_path):
    fill(sqlite_store, ask, answer, 20)
    first = take_snapshot(sqlite_store, tmp_path)
    stamp = (first.path / "train.parquet").stat().st_mtime_ns
    assert take_snapshot(sqlite_store, tmp_path) == first
    assert (first.path / "train.parquet").stat().st_mtime_ns == stamp
    other_seed = take_snapshot(sqlite_store, tmp_path, seed=1)
    other_share = take_snapshot(sqlite_store, tmp_path, test_share=0.5)
    sqlite_store.add_label(
        NewLabel(1, sqlite_store.annotator("ben", "human"), "both_bad", 0.5, [0, 1], "new")
    )
    later = take_snapshot(sqlite_store, tmp_path)
    paths = {first.path, other_seed.path, other_share.path, later.path}
    assert len(paths) == 4
    assert {path for path in tmp_path.glob("*/") if not path.is_symlink()} == paths
    assert (tmp_path / "latest").resolve() == later.path


def test_draw_is_even_and_follows_the_seed():
    drawn = [[draw(str(i), seed) < 0.1 for i in range(5_000)] for seed in (0, 1)]
    assert [sum(d) / 5_000 for d in drawn] == pytest.approx([0.1, 0.1], abs=0.015)
    assert sum(a and b for a, b in zip(*drawn, strict=True)) / 5_000 == pytest.approx(0.01, abs=0.006)


def test_datasets_loads_a_snapshot(sqlite_store, ask, answer, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    fill(sqlite_store, ask, answer, 20)
    for share, splits in [(0.3, ("train", "test")), (0.0, ("train",))]:
        snapshot = take_snapshot(sqlite_store, tmp_path / "snapshots", test_share=share)
        loaded = datasets.load_dataset(str(snapshot.path), cache_dir=str(tmp_path / "cache"))
        assert {name: len(rows) for name, rows in loaded.items()} == {s: snapshot.counts[s] for s in splits}
        assert read_snapshot(snapshot.path, verify=True).test.num_rows == snapshot.counts["test"]
        assert loaded["train"].column_names == COLUMNS.names
        assert loaded["train"][0]["prompt"][0]["role"] == "user"


def test_changed_snapshots_are_found_out(sqlite_store, ask, answer, tmp_path):
    fill(sqlite_store, ask, answer, 20)
    path = take_snapshot(sqlite_store, tmp_path / "snapshots").path
    table = pq.read_table(path / "train.parquet")
    pq.write_table(table.slice(1), path / "train.parquet")
    assert read_snapshot(path).train.num_rows == table.num_rows - 1
    with pytest.raises(LabelingError, match=r"train.parquet does not match its hash"):
        read_snapshot(path, verify=True)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["settings"]["seed"] = 5
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(LabelingError, match="manifest does not match"):
        read_snapshot(path, verify=True)
    (path / "test.parquet").unlink()
    with pytest.raises(LabelingError, match="is not a snapshot"):
        read_snapshot(path)


def test_nothing_to_snapshot(sqlite_store, ask, answer, tmp_path):
    with pytest.raises(LabelingError, match="nothing to snapshot"):
        take_snapshot(sqlite_store, tmp_path / "snapshots")
    with pytest.raises(LabelingError, match="test_share"):
        take_snapshot(sqlite_store, tmp_path / "snapshots", test_share=1.0)
    assert list((tmp_path / "snapshots").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(LabelingError, match="cannot write a snapshot"):
        take_snapshot(sqlite_store, tmp_path / "file")


KILLED = """
import os, signal, sys
from pathlib import Path
from labeling import snapshot
from labeling.store import Store

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

snapshot.settle = die  # everything is written by then, and nothing is named
snapshot.take_snapshot(Store.open(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_snapshot_is_never_seen_and_is_swept(sqlite_store, ask, answer, tmp_path):
    fill(sqlite_store, ask, answer, 20)
    folder = tmp_path / "snapshots"
    code = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "align.db"), str(folder)],
        cwd=Path(__file__).parents[2],
        check=False,
    ).returncode
    assert code == -9
    (left,) = folder.iterdir()
    assert left.name.startswith(".partial-")
    snapshot = take_snapshot(sqlite_store, folder)
    assert left.exists()  # it could be another process's, at work
    two_days_ago = time.time() - 2 * 86_400
    os.utime(left, (two_days_ago, two_days_ago))
    take_snapshot(sqlite_store, folder)
    assert {path.name for path in folder.iterdir()} == {snapshot.path.name, "latest"}
