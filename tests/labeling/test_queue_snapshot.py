"""What a snapshot makes of the queue's labels: checks and latecomers are left out, a lead's decision stands alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from labeling.errors import LabelingError
from labeling.queue.adjudicate import adjudicate
from labeling.queue.gold import set_gold
from labeling.queue.settings import QueueSettings, save_settings
from labeling.queue.submit import Answer, submit
from labeling.snapshot import read_snapshot, take_snapshot
from labeling.views import NewLabel
from tests.labeling.queue_items import FIRST_SHOWN, add_items, claimed, label_next, people

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


def snapshot_of(store, folder) -> tuple[list[dict], dict]:
    taken = take_snapshot(store, folder, test_share=0)
    return read_snapshot(taken.path, verify=True).train.to_pylist(), taken.counts["left_out"]


def test_checks_and_late_labels_are_left_out_and_counted(store, tmp_path):
    (contested,) = add_items(store, 1)
    ann, ben = people(store, 2)
    slow = claimed(store, ann, now=START)
    quick = claimed(store, ben, now=START + timedelta(hours=1))
    submit(store, quick.token, ben, FIRST_SHOWN, key="k")
    submit(store, slow.token, ann, FIRST_SHOWN, key="k")
    counted, gold = add_items(store, 2)
    set_gold(store, gold, "preference", 1.0)
    assert label_next(store, ben)[0].comparison.id == counted
    for purpose, shares in {
        "gold": {"gold_share": 1.0},
        "repeat": {"repeat_share": 1.0, "repeat_after": 1},
    }.items():
        save_settings(store, QueueSettings(**shares))
        assert label_next(store, ben)[0].purpose == purpose
    rows, left_out = snapshot_of(store, tmp_path)
    assert {(row["comparison_id"], row["annotator"]) for row in rows} == {
        (contested, "person 1"), (counted, "person 1"),
    }  # fmt: skip
    assert left_out == {"both_bad": 0, "late": 1, "gold": 1, "repeat": 1}


def test_a_decision_alone_stands_for_the_people(store, tmp_path):
    decided, undecided = add_items(store, 2)
    ann, ben, lead = people(store, 3)
    judge, script = store.annotator("judge", "judge"), store.annotator("scripted-1", "scripted")
    store.add_labels(
        NewLabel(item, who, "preference", p, [0, 1], f"{item}-{who}")
        for item in (decided, undecided)
        for who, p in ((ann, 1.0), (ben, 0.0), (script, 1.0), (judge, 0.7))
    )
    adjudicate(store, decided, lead, Answer("preference", choice=1, strength=3))
    rows, left_out = snapshot_of(store, tmp_path)
    assert left_out == {"both_bad": 0, "adjudicated": 3}
    on_decided = {row["annotator"]: row for row in rows if row["comparison_id"] == decided}
    assert set(on_decided) == {"judge", "person 2"}
    decision = on_decided["person 2"]
    assert (decision["chosen"][0]["content"], decision["margin"], decision["source"]) == ("B", 3.0, "human")
    assert len(rows) == 2 + 4


def test_nothing_but_checks_is_no_snapshot(store, tmp_path):
    (item,) = add_items(store, 1)
    set_gold(store, item, "tie", 0.5)
    save_settings(store, QueueSettings(gold_share=1.0))
    (ann,) = people(store, 1)
    label_next(store, ann)
    with pytest.raises(LabelingError, match=r"left out: 1 gold"):
        take_snapshot(store, tmp_path)
