"""What people's labels and the judge's are worth, on labels of which only people's are right."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from alignment.cli import run as align
from alignment.reward_study import study, worth_of_100
from reward.errors import RewardError


def points(*pairs: tuple[int, float | None]) -> list[dict[str, Any]]:
    return [{"people_labels": count, "accuracy": accuracy} for count, accuracy in pairs]


def test_the_worth_of_more_labels_by_hand() -> None:
    # 5 points of accuracy a doubling, from 100 to 400; 100 more are a factor of 1.25
    found = worth_of_100(points((100, 0.6), (200, 0.65), (400, 0.7)))
    assert found == pytest.approx(0.05 * math.log2(500 / 400))
    assert worth_of_100(points((100, 0.6), (100, 0.7))) is None
    assert worth_of_100(points((100, None), (200, 0.7))) is None
    assert worth_of_100([]) is None


def labelled(people: int, judge: int) -> Dataset:
    sources = ["human"] * people + ["judge"] * judge
    return Dataset.from_list([{"source": source, "group": f"g{i}"} for i, source in enumerate(sources)])


def test_each_part_is_trained_on_and_examined_by_people_alone() -> None:
    seen: dict[str, tuple[dict[str, int], int]] = {}

    def train_on(name: str, train: Dataset, test: Dataset) -> dict[str, Any]:
        assert set(test["source"]) == {"human"}
        kinds = list(train["source"])
        seen[name] = ({kind: kinds.count(kind) for kind in set(kinds)}, len(test))
        if name == "judge_only":
            raise RewardError("nothing to learn")
        return {"accuracy": 0.5 + len(train) / 1000}

    found = study(labelled(80, 40), labelled(6, 3), train_on, curve=True)
    assert seen["people_only"] == ({"human": 80}, 6)
    assert seen["judge_only"] == ({"judge": 40}, 6)
    assert seen["mixed"] == ({"human": 80, "judge": 40}, 6)
    assert found["judge_only"] == {"accuracy": None, "reason": "nothing to learn", "train_pairs": 40}
    counts = [point["people_labels"] for point in found["curve"]]
    assert counts == sorted(counts)
    assert counts[-1] == 80
    assert 10 < counts[0] < 30 < counts[1] < 50  # about a quarter, about a half
    assert found["worth_of_100"] > 0
    for train, test in (
        (labelled(5, 0), labelled(3, 0)),
        (labelled(0, 5), labelled(3, 0)),
        (labelled(3, 3), labelled(0, 3)),
    ):
        assert study(train, test, train_on, curve=False) == {}


def test_align_reward_train_shows_them_side_by_side(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = ([{"role": "assistant", "content": text}] for text in ("thank you, by the river", "no"))
    rows = [
        {
            "prompt": [{"role": "user", "content": f"where is inn {i}?"}],
            "source": "judge" if i % 2 else "human",
        }
        | ({"chosen": bad, "rejected": good} if i % 2 else {"chosen": good, "rejected": bad})
        for i in range(60)
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        f"run={tmp_path}/rm",
        f"base.path={tiny_model}",
        f"data={data}",
        "max_length=128",
        "batch_size=8",
    ]
    assert (
        align(["reward", "train", *words, "tuning.rank=2", "learning_rate=5e-3", "epochs=2", "study=sources"])
        == 0
    )
    shown = capsys.readouterr().err
    assert "people only accuracy 1.000" in shown
    assert "judge only  accuracy 0.000" in shown
    assert "mixed       accuracy" in shown
    found = json.loads((tmp_path / "rm" / "summary.json").read_text())["study"]
    assert (
        found["people_only"]["train_pairs"] + found["judge_only"]["train_pairs"]
        == found["mixed"]["train_pairs"]
    )
