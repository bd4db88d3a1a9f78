"""Reading preference pairs: what is filled in, what is left out and why, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import AlignmentError
from alignment.preferences import load_preferences
from labeling.snapshot import take_snapshot
from labeling.store import Store
from labeling.views import NewComparison, NewCompletion, NewLabel


def pair(number: int = 0, **columns: Any) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": f"where is inn {number}?"}],
        "chosen": [{"role": "assistant", "content": "By the river."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    } | columns


def jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_missing_label_columns_mean_a_sure_plain_preference(tmp_path: Path) -> None:
    data = load_preferences(jsonl(tmp_path, [pair(0)]))
    row = data.train[0]
    assert (row["p_chosen"], row["margin"], row["weight"], row["source"]) == (1.0, 0.0, 1.0, "import")
    assert len(row["group"]) == 64
    assert data.snapshot is None


def test_a_file_is_split_by_prompt(tmp_path: Path) -> None:
    data = load_preferences(jsonl(tmp_path, [pair(i // 2, comparison_id=i) for i in range(400)]))
    train, test = set(data.train["group"]), set(data.test["group"])
    assert not train & test
    assert len(data.train) + len(data.test) == 400
    assert 20 <= len(data.test) <= 70
    assert len(train) + len(test) == 200


def test_a_snapshot_keeps_its_split_and_gives_its_hash(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "labels.db"))
    annotator = store.annotator("scripted-1", "scripted")
    for i in range(20):
        row = pair(i)
        sides = [NewCompletion(row[side]) for side in ("chosen", "rejected")]
        (added,) = store.add_comparisons([NewComparison(row["prompt"], sides)])
        assert added.comparison_id
        store.add_label(NewLabel(added.comparison_id, annotator, "preference", 0.25, [0, 1], f"key-{i}"))
    snapshot = take_snapshot(store, tmp_path / "snapshots", test_share=0.3)
    data = load_preferences(snapshot.path)
    assert data.snapshot == snapshot.hash
    assert (len(data.train), len(data.test)) == (snapshot.counts["train"], snapshot.counts["test"])
    assert len(data.train) + len(data.test) == 20
    row = data.train[0]
    assert row["chosen"] == [{"role": "assistant", "content": "No."}]  # the second side, at 1 - 0.25
    assert (row["p_chosen"], row["source"], row["annotator"]) == (0.75, "human", "scripted-1")
    assert data.rejects == []


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"rejected": [{"role": "assistant", "content": "By the river."}]}, "both sides are the same"),
        ({"chosen": [{"role": "assistant", "content": " \n"}]}, "chosen is empty"),
        ({"rejected": []}, "rejected is not a list of messages"),
        ({"prompt": "where?"}, "prompt is not a list of messages"),
        ({"p_chosen": 0.3}, "p_chosen is outside 0.5..1"),
        ({"p_chosen": float("nan")}, "p_chosen is outside 0.5..1"),
        ({"weight": float("nan")}, "weight is negative or not a number"),
        ({"margin": -1.0}, "margin is negative or not a number"),
    ],
)
def test_what_cannot_be_learned_from_is_left_out_with_its_reason(
    tmp_path: Path, columns: dict[str, Any], reason: str
) -> None:
    data = load_preferences(jsonl(tmp_path, [pair(0), pair(1, comparison_id=9) | columns]))
    assert data.rejects == [{"split": None, "row": 1, "comparison_id": 9, "reason": reason}]
    assert data.left_out() == {reason: 1}
    assert len(data.train) == 1


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    same = [{"role": "assistant", "content": "No."}]
    with pytest.raises(AlignmentError, match=r"no pair to train on.*2 x both sides are the same"):
        load_preferences(jsonl(tmp_path, [pair(0, chosen=same), pair(1, chosen=same)]))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(AlignmentError, match="no preference data at"):
        load_preferences(tmp_path / "none.jsonl")
    with pytest.raises(AlignmentError, match="is empty"):
        load_preferences(jsonl(tmp_path, []))
    with pytest.raises(AlignmentError, match=r"no column rejected .*align data import"):
        load_preferences(jsonl(tmp_path, [{"prompt": [], "chosen": []}]))
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps(pair()) + "\n{oh no\n")
    with pytest.raises(AlignmentError, match="line 2: not valid JSON"):
        load_preferences(broken)
