"""Rollouts end in the store, every prompt is accounted for, and an interrupted run ends as an unbroken one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignment import rollouts
from alignment.errors import AlignmentError
from alignment.models import ModelConfig
from alignment.rollouts import RolloutConfig, collect_rollouts, count, plan
from labeling.store import Store
from rollout.types import Sampling


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"the inn {i}"}) + "\n" for i in range(10)))
    return file


def settings(tmp_path: Path, model: Path, prompts: Path, **changes: object) -> RolloutConfig:
    values: dict[str, object] = {
        "run": str(tmp_path / "run"),
        "policy": ModelConfig(path=str(model)),
        "name": "tiny",
        "prompts": str(prompts),
        "store": str(tmp_path / "store.db"),
        "sampling": Sampling(max_new_tokens=6),
        "batch_size": 6,
    }
    return RolloutConfig(**(values | changes))


def test_pairs_land_in_the_store_with_who_made_them(tmp_path: Path, tiny_model: Path, prompts: Path) -> None:
    figures = collect_rollouts(settings(tmp_path, tiny_model, prompts))
    kept = figures["comparisons"] + figures["identical"] + figures["empty"] + figures["duplicates"]
    assert figures["prompts"] == kept == 10
    assert figures["comparisons"] >= 8  # a random model hardly says the same twice
    store = Store.open(str(tmp_path / "store.db"), create=False)
    views = list(store.comparisons())
    assert len(views) == figures["comparisons"]
    assert all(model == "tiny" for view in views for _, model in view.sides)
    rows = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").open()]
    assert [row["prompt"][0]["content"] for row in rows] == [f"the inn {i}" for i in range(10)]
    stored = {text for view in views for messages, _ in view.sides for text in [messages[0]["content"]]}
    assert stored == {a["text"] for row in rows if row["outcome"] == "added" for a in row["answers"]}


def test_an_interrupted_run_continues_and_equals_an_unbroken_one(
    tmp_path: Path, tiny_model: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = settings(tmp_path, tiny_model, prompts, run=str(tmp_path / "whole"), store=str(tmp_path / "w.db"))
    expected = collect_rollouts(whole)

    config = settings(tmp_path, tiny_model, prompts)
    real, calls = rollouts.append_rows, []

    def stop_at_the_second_batch(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(rollouts, "append_rows", stop_at_the_second_batch)
    with pytest.raises(KeyboardInterrupt):
        collect_rollouts(config)
    monkeypatch.undo()
    answers = tmp_path / "run" / "answers.jsonl"
    assert len(answers.read_text().splitlines()) == 3
    with answers.open("a") as file:
        file.write('{"prompt": [{"role": "us')  # a line torn by a kill
    figures = collect_rollouts(config)
    said = [[a["text"] for a in json.loads(line)["answers"]] for line in answers.open()]
    assert said == [
        [a["text"] for a in json.loads(line)["answers"]] for line in (tmp_path / "whole/answers.jsonl").open()
    ]
    # the batch that reached the store but not the record is found there again
    assert figures["comparisons"] + figures["duplicates"] == expected["comparisons"]
    assert Store.open(str(tmp_path / "store.db")).counts()["comparisons"] == expected["comparisons"]


def test_doing_it_again_adds_nothing(tmp_path: Path, tiny_model: Path, prompts: Path) -> None:
    config = settings(tmp_path, tiny_model, prompts)
    first = collect_rollouts(config)
    again = collect_rollouts(config)
    assert {**again, "tokens_per_second": 0} == {**first, "tokens_per_second": 0}
    other = collect_rollouts(config.model_copy(update={"run": str(tmp_path / "other")}))
    assert (other["comparisons"], other["duplicates"]) == (0, first["comparisons"])


def test_other_settings_or_prompts_do_not_continue_a_run(
    tmp_path: Path, tiny_model: Path, prompts: Path
) -> None:
    config = settings(tmp_path, tiny_model, prompts)
    collect_rollouts(config)
    with pytest.raises(AlignmentError, match=r"other settings \(seed changed\).*--overwrite"):
        collect_rollouts(config.model_copy(update={"seed": 1}))
    prompts.write_text("".join(json.dumps({"prompt": f"the bar {i}"}) + "\n" for i in range(10)))
    with pytest.raises(AlignmentError, match="not those that"):
        collect_rollouts(config)
    assert collect_rollouts(config, overwrite=True)["prompts"] == 10


def test_too_long_prompts_are_counted_and_kept_with_the_reason(
    tmp_path: Path, tiny_model: Path, prompts: Path
) -> None:
    with prompts.open("a") as file:
        file.write(json.dumps({"prompt": "guest " * 400}) + "\n")
    figures = collect_rollouts(settings(tmp_path, tiny_model, prompts))
    assert (figures["prompts"], figures["too_long"]) == (10, 1)
    (reject,) = [json.loads(line) for line in (tmp_path / "run" / "rejected_prompts.jsonl").open()]
    assert reject["row"] == 11
    assert "context leaves 250" in reject["reason"]


def test_without_a_store_one_answer_a_prompt_is_enough(
    tmp_path: Path, tiny_model: Path, prompts: Path
) -> None:
    config = settings(tmp_path, tiny_model, prompts, store=None, completions=1, limit=3)
    assert collect_rollouts(config)["answers"] == 3
    with pytest.raises(AlignmentError, match="completions=2"):
        collect_rollouts(settings(tmp_path, tiny_model, prompts, completions=1))


def test_a_ranking_has_as_many_sides_as_asked_for(tmp_path: Path, tiny_model: Path, prompts: Path) -> None:
    collect_rollouts(settings(tmp_path, tiny_model, prompts, completions=4, limit=2))
    views = list(Store.open(str(tmp_path / "store.db")).comparisons())
    assert [len(view.sides) for view in views] == [4, 4]


def test_the_plan_counts_without_a_model(tmp_path: Path, prompts: Path) -> None:
    config = settings(tmp_path, Path("owner/some-model"), prompts, completions=3)
    assert plan(config)["tokens to sample, at most"] == 10 * 3 * 6


def test_every_outcome_is_counted() -> None:
    def row(outcome: str, *reasons: str) -> dict[str, object]:
        return {
            "outcome": outcome,
            "answers": [{"text": "", "tokens": 2, "finish_reason": r} for r in reasons],
        }

    rows = [row("added", "stop", "length"), row("identical", "stop", "stop"), row("empty", "stop", "stop")]
    figures = count([*rows, row("duplicate", "length", "length")], rejected=2)
    assert figures == {
        "prompts": 4, "too_long": 2, "comparisons": 1, "identical": 1, "empty": 1, "duplicates": 1,
        "answers": 8, "truncated": 3, "tokens": 16,
    }  # fmt: skip
