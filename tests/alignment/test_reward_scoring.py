"""`align reward eval|calibrate|score|rate` on reward models made small: formats, kills, folders of others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from alignment import scored_file
from alignment.cli import run as align
from alignment.errors import AlignmentError
from alignment.scored_file import score_file
from labeling.schema import Comparison
from labeling.store import Store
from labeling.views import NewComparison, NewCompletion
from reward.card import RewardCard
from reward.learned import LearnedScorer
from reward.model import add_member, from_base, save
from tests.reward.test_reward_benchmarks import RB1, RB2, RMB


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A reward model without a card, as others leave them."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    save(from_base(str(tiny_model), tokenizer, dtype=torch.float32, seed=1), tokenizer, tmp_path / "rm")
    return tmp_path / "rm"


@pytest.fixture
def ensemble(tiny_model: Path, tmp_path: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = from_base(str(tiny_model), tokenizer, dtype=torch.float32)
    wrapped = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", modules_to_save=["score"]))
    add_member(wrapped, 1, 7)
    save(wrapped, tokenizer, tmp_path / "both")
    card = {"score_mean": 0.0, "score_std": 1.0, "scored": 1, "measured_on": "test", "train_pairs": 1}
    RewardCard.model_validate(card | {"max_length": 99, "member_means": [0.0, 0.0]}).write(tmp_path / "both")
    return tmp_path / "both"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def messages(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def some_pairs(folder: Path) -> Path:
    answers = [
        ("by the river", "no"),
        ("thank you", "it is what it is"),
        ("yes, and cheap", "345"),
        ("old", "bridge"),
    ]
    rows = [
        {"prompt": messages("user", f"where is inn {i}?"), "chosen": messages("assistant", better),
         "rejected": messages("assistant", worse), "source": "human" if i % 2 else "judge"}
        for i, (better, worse) in enumerate(answers * 3)
    ]  # fmt: skip
    return write(folder / "pairs.jsonl", rows)


def test_eval_writes_a_page_with_both_plots(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = some_pairs(tmp_path)
    assert align(["reward", "eval", str(model), str(data), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "the longer answer scores higher in" in shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 2
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["pairs"] == 12
    assert set(figures["by_source"]) == {"human", "judge"}
    assert 0.05 <= figures["temperature"] <= 20


@pytest.mark.parametrize(("row", "name"), [(RB1, "RewardBench"), (RB2, "RewardBench 2"), (RMB, "RM-Bench")])
def test_eval_knows_the_benchmarks(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], name: str
) -> None:
    data = write(tmp_path / "bench.jsonl", [row, row])
    assert align(["reward", "eval", str(model), str(data), "--out", str(tmp_path / "out"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads((tmp_path / "out" / "figures.json").read_text())
    assert (figures["benchmark"], figures["questions"]) == (name, 2)
    scorer = LearnedScorer(model, device="cpu")
    right, wrong = (
        scorer.score([[*messages("user", "2 + 2?"), *messages("assistant", text)] for text in side])
        for side in ([row["chosen"]] if isinstance(row["chosen"], str) else row["chosen"],
                     [row["rejected"]] if isinstance(row["rejected"], str) else row["rejected"])
    )  # fmt: skip
    if name != "RM-Bench":
        assert figures["score"] == float(max(right) > max(wrong))
    else:
        assert figures["score"] == pytest.approx(sum(r > w for r in right for w in wrong) / 9)
    assert align(["reward", "eval", str(model), str(data)]) == 0
    assert f"{name}: " in capsys.readouterr().out


def test_rows_of_two_kinds_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "mixed.jsonl", [RB1, RB2])
    assert align(["reward", "eval", str(model), str(data)]) == 1
    assert "mixes rows of RewardBench, RewardBench 2" in capsys.readouterr().err


def test_calibrating_gives_a_foreign_model_a_card(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = some_pairs(tmp_path)
    assert align(["reward", "calibrate", str(model), str(data), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    card = RewardCard.read(model)
    assert (card.measured_on, card.scored) == ("calibration", 24)
    assert card.temperature == figures["temperature"]
    answers = [json.loads(line) for line in data.read_text().splitlines()]
    sides = [[*row["prompt"], *row[side]] for row in answers for side in ("chosen", "rejected")]
    normal = torch.tensor(LearnedScorer(model, device="cpu", normalise=True).score(sides))
    assert normal.mean().item() == pytest.approx(0, abs=1e-4)
    assert normal.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    before = card.model_copy(update={"train_pairs": 5})
    before.write(model)
    assert align(["reward", "calibrate", str(model), str(data)]) == 0
    assert RewardCard.read(model) == before  # what it does not measure stays


def answers(folder: Path, count: int) -> Path:
    return write(
        folder / "answers.jsonl",
        [
            {"prompt": f"where is inn {i}?", "completion": "by the river " * (i % 5)}
            for i in range(1, count + 1)
            if i % 5
        ],
    )


def test_scoring_goes_on_after_a_kill(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = answers(tmp_path, 25), tmp_path / "scored.jsonl"
    whole = score_file(str(model), file, tmp_path / "whole.jsonl")
    monkeypatch.setattr(scored_file, "CHUNK", 4)
    asked: list[int] = []
    plain = LearnedScorer.token_opinions

    def killed_at_the_third(self: Any, ids: Any, progress: Any = None) -> Any:
        asked.append(len(ids))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return plain(self, ids, progress)

    monkeypatch.setattr(LearnedScorer, "token_opinions", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        score_file(str(model), file, out)
    assert not out.exists()
    partial = tmp_path / "scored.jsonl.partial"
    with partial.open("a") as torn:
        torn.write('{"prompt": "half a li')
    assert score_file(str(model), file, out) == pytest.approx(whole)
    assert asked == [4, 4, 4, 4, 4, 4]  # the first two chunks were not scored again
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    expected = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in expected]
    assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in expected], abs=1e-5)
    assert not list(tmp_path.glob("*.partial*"))


def test_what_another_model_scored_is_not_gone_on_with(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = answers(tmp_path, 5), tmp_path / "scored.jsonl"
    other = scored_file.Partial(out, {"model": "another", "file": str(file), "bytes": 1})
    assert other.begin() == 0
    other.add([{"score": 1e9}])
    assert score_file(str(model), file, out)["highest"] < 1e9


def test_parquet_and_faults(model: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = answers(tmp_path, 6)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "answers.parquet")
    assert score_file(str(model), tmp_path / "answers.parquet", tmp_path / "a.jsonl") == pytest.approx(
        score_file(str(model), file, tmp_path / "b.jsonl")
    )
    for text, line in (
        ('{"prompt": "a", "completion": "b"}\nnot json\n', "line 2: not valid JSON"),
        ('{"prompt": "a"}\n', "row 1: it needs `messages`"),
        ("[]\n", "a row must be an object"),
        ("", "is empty"),
    ):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(AlignmentError, match=line):
            score_file(str(model), tmp_path / "bad.jsonl", tmp_path / "c.jsonl")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(AlignmentError, match="not a whole Parquet file"):
        score_file(str(model), tmp_path / "bad.parquet", tmp_path / "d.jsonl")


def test_an_ensemble_says_how_far_it_disagrees(ensemble: Path, tmp_path: Path) -> None:
    score_file(str(ensemble), answers(tmp_path, 3), tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert all(row["disagreement"] > 0 for row in rows)


def store_of(path: Path, answers: list[tuple[str, ...]]) -> Store:
    store = Store.open(str(path))
    for number, texts in enumerate(answers):
        sides = tuple(NewCompletion(messages("assistant", text), "m") for text in texts)
        store.add_comparisons([NewComparison(messages("user", f"where is inn {number}?"), sides)])
    return store


def test_the_queue_learns_where_members_disagree(
    ensemble: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_of(tmp_path / "align.db", [("by the river", "no"), ("old", "cheap", "thank you")])
    assert align(["reward", "rate", str(ensemble), "--store", str(tmp_path / "align.db"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["comparisons"] == 2
    with store.begin() as session:
        found = {row.id: row.uncertainty for row in session.query(Comparison)}
    scorer = LearnedScorer(ensemble, device="cpu")
    prompt = messages("user", "where is inn 0?")
    sides = torch.tensor(scorer.opinions([prompt + messages("assistant", t) for t in ("by the river", "no")]))
    expected = (sides[0] - sides[1]).sigmoid().std(correction=0).item()
    assert found[1] == pytest.approx(expected, abs=1e-5)
    assert 0 < found[2] <= 0.5
    assert figures["highest"] == pytest.approx(max(found.values()))
    # two folders do as well as one with two members; one alone does not
    shutil.rmtree(ensemble / "member-1")
    card = RewardCard.read(ensemble)
    card.model_copy(update={"member_means": []}).write(ensemble)
    assert align(["reward", "rate", str(ensemble), "--store", str(tmp_path / "align.db")]) == 1
    assert "nobody to disagree with" in capsys.readouterr().err
    assert align(["reward", "rate", str(ensemble), str(ensemble), "--store", str(tmp_path / "align.db")]) == 0
    with store.begin() as session:
        assert [row.uncertainty for row in session.query(Comparison)] == [0.0, 0.0]


def test_an_empty_store_is_said(ensemble: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store.open(str(tmp_path / "align.db"))
    assert align(["reward", "rate", str(ensemble), "--store", str(tmp_path / "align.db")]) == 1
    assert "no comparison to rate" in capsys.readouterr().err
