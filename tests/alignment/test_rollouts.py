"""Rollouts end in the store, every prompt is accounted for, and an interrupted run ends as an unbroken one."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from alignment.config import load_config, to_yaml
from alignment.errors import AlignmentError, ConfigError
from alignment.kept import OUTCOMES
from alignment.models import ModelConfig
from alignment.preferences import load_preferences
from alignment.rollout_record import in_words
from alignment.rollouts import RolloutConfig, collect_rollouts, plan
from alignment.sft_data import read_examples
from labeling.store import Store
from rollout.endpoint import Endpoint
from rollout.types import Sampling
from tests.alignment.cli_process import fork_server, start
from tests.rollout.stand_in_endpoint import MODEL, StandInEndpoint


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


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open()]


def same(figures: dict[str, Any]) -> dict[str, Any]:
    return {**figures, "tokens_per_second": 0}


def test_pairs_land_in_the_store_with_who_made_them(tmp_path: Path, tiny_model: Path, prompts: Path) -> None:
    figures = collect_rollouts(settings(tmp_path, tiny_model, prompts))
    assert figures["prompts"] == sum(figures[outcome] for outcome in OUTCOMES) == 10
    assert figures["added"] >= 8  # a random model hardly says the same twice
    store = Store.open(str(tmp_path / "store.db"), create=False)
    views = list(store.comparisons())
    assert len(views) == figures["added"]
    assert all(model == "tiny" for view in views for _, model in view.sides)
    rows = read(tmp_path / "run" / "answers.jsonl")
    assert [row["prompt"][0]["content"] for row in rows] == [f"the inn {i}" for i in range(10)]
    stored = {text for view in views for messages, _ in view.sides for text in [messages[0]["content"]]}
    assert stored == {a["text"] for row in rows if row["outcome"] == "added" for a in row["answers"]}


@pytest.mark.timeout(240)
def test_killed_at_random_moments_it_ends_as_an_unbroken_run(
    tmp_path: Path, tiny_model: Path, prompts: Path
) -> None:
    prompts.write_text("".join(json.dumps({"prompt": f"the inn {i}"}) + "\n" for i in range(60)))
    sampling, context, chance = Sampling(max_new_tokens=40), fork_server(), random.Random(0)
    whole = settings(
        tmp_path,
        tiny_model,
        prompts,
        run=str(tmp_path / "w"),
        store=str(tmp_path / "w.db"),
        sampling=sampling,
    )
    expected = collect_rollouts(whole)
    config = settings(tmp_path, tiny_model, prompts, sampling=sampling)
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    answers = tmp_path / "run" / "answers.jsonl"
    for kill in range(3):
        process = start(context, ["rollout", "--config", str(tmp_path / "c.yaml")], tmp_path / "log")
        wanted = len(lines(answers)) + 6
        while process.is_alive() and len(lines(answers)) < wanted:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
        assert len(lines(answers)) < 60, f"too fast for kill {kill}"
        with answers.open("a") as file:
            file.write('{"row": 1, "prompt": [{"role": "us')  # and a torn line
    figures = collect_rollouts(config)
    assert same(figures) == same(expected)
    assert answers.read_bytes() == (tmp_path / "w" / "answers.jsonl").read_bytes()
    assert texts_in(tmp_path / "store.db") == texts_in(tmp_path / "w.db")


def test_what_a_kill_left_out_of_the_store_is_added_by_the_next_call(
    tmp_path: Path, tiny_model: Path, prompts: Path
) -> None:
    config = settings(tmp_path, tiny_model, prompts, batch_size=20)
    expected = collect_rollouts(config)
    (tmp_path / "store.db").unlink()  # as if killed between the record and the commit
    assert same(collect_rollouts(config)) == same(expected)
    assert Store.open(str(tmp_path / "store.db")).counts()["comparisons"] == expected["added"]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def texts_in(store: Path) -> list[Any]:
    return [(view.prompt, view.sides) for view in Store.open(str(store)).comparisons()]


def test_doing_it_again_adds_nothing(tmp_path: Path, tiny_model: Path, prompts: Path) -> None:
    config = settings(tmp_path, tiny_model, prompts)
    first = collect_rollouts(config)
    assert same(collect_rollouts(config)) == same(first)
    other = collect_rollouts(config.model_copy(update={"run": str(tmp_path / "other")}))
    assert (other["added"], other["duplicate"]) == (0, first["added"])


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


def test_prompts_that_are_too_long_or_stand_there_twice_are_counted(
    tmp_path: Path, tiny_model: Path, prompts: Path
) -> None:
    with prompts.open("a") as file:
        file.write(json.dumps({"prompt": "guest " * 400}) + "\n" + json.dumps({"prompt": "the inn 3"}) + "\n")
    config = settings(tmp_path, tiny_model, prompts)
    figures = collect_rollouts(config)
    assert (figures["prompts"], figures["too_long"], figures["repeated_prompts"]) == (10, 1, 1)
    said = in_words(config, figures)
    assert f"{figures['added']} of 12 prompts kept" in said
    assert "1 too long, 1 repeated" in said
    (reject,) = read(tmp_path / "run" / "rejected_prompts.jsonl")
    assert reject["row"] == 11
    assert "context leaves 250" in reject["reason"]


def test_a_prompt_that_cannot_be_stored_is_named_before_anything_is_sampled(
    tmp_path: Path, tiny_model: Path, prompts: Path
) -> None:
    with prompts.open("a") as file:
        file.write(json.dumps({"prompt": [{"role": "assistant", "content": "hello"}]}) + "\n")
    with pytest.raises(AlignmentError, match=r"row 11: the prompt does not end in a user turn"):
        collect_rollouts(settings(tmp_path, tiny_model, prompts))
    assert not (tmp_path / "run").exists()


def test_without_a_store_one_answer_a_prompt_is_enough(
    tmp_path: Path, tiny_model: Path, prompts: Path
) -> None:
    config = settings(tmp_path, tiny_model, prompts, store=None, completions=1, limit=3)
    assert collect_rollouts(config)["answers"] == 3
    assert not (tmp_path / "store.db").exists()


def test_a_ranking_has_as_many_sides_as_asked_for(tmp_path: Path, tiny_model: Path, prompts: Path) -> None:
    collect_rollouts(settings(tmp_path, tiny_model, prompts, completions=4, limit=2))
    views = list(Store.open(str(tmp_path / "store.db")).comparisons())
    assert [len(view.sides) for view in views] == [4, 4]


def by_length(conversations: list[list[dict[str, str]]]) -> list[float]:
    """A reward rule, named in configs of these tests."""
    return [float(len(c[-1]["content"])) for c in conversations]


RULE = "python:tests.alignment.test_rollouts:by_length"


def test_best_of_n_makes_an_sft_set_that_sft_reads(tmp_path: Path, tiny_model: Path, prompts: Path) -> None:
    config = settings(
        tmp_path,
        tiny_model,
        prompts,
        completions=6,
        reward=RULE,
        keep="best",
        sampling=Sampling(max_new_tokens=40),
    )
    figures = collect_rollouts(config)
    rows = read(tmp_path / "run" / "sft.jsonl")
    assert len(rows) == figures["added"] == figures["sft_rows"] > 5
    assert not (tmp_path / "store.db").exists()
    said = {row["prompt"][0]["content"]: row["answers"] for row in read(tmp_path / "run" / "answers.jsonl")}
    for row in rows:
        ended = [a for a in said[row["prompt"][0]["content"]] if a["finish_reason"] == "stop"]
        assert row["score"] == max(a["score"] for a in ended if a["text"].strip())
        assert row["score"] == len(row["completion"][0]["content"])
    examples = list(read_examples(rows, "sft.jsonl"))
    assert len(examples) == len(rows)
    assert examples[0][1].prompt == rows[0]["prompt"]


def test_rejection_sampling_keeps_each_good_answer_once(
    tmp_path: Path, tiny_model: Path, prompts: Path
) -> None:
    config = settings(
        tmp_path, tiny_model, prompts, completions=8, reward=RULE, keep="accepted", min_score=5.0,
        sampling=Sampling(max_new_tokens=40),
    )  # fmt: skip
    figures = collect_rollouts(config)
    rows = read(tmp_path / "run" / "sft.jsonl")
    assert len(rows) == figures["sft_rows"] > figures["added"] > 0
    assert all(row["score"] >= 5 for row in rows)
    assert figures["added"] + figures["below"] + figures["truncated"] + figures["empty"] == 10


def test_best_and_worst_become_pairs_that_the_trainers_read_and_comparisons(
    tmp_path: Path, tiny_model: Path, prompts: Path, reward_folder: Path
) -> None:
    config = settings(tmp_path, tiny_model, prompts, completions=4, reward=str(reward_folder), keep="pair")
    figures = collect_rollouts(config)
    pairs = read(tmp_path / "run" / "pairs.jsonl")
    assert len(pairs) == figures["added"] > 5
    assert all(pair["score_chosen"] > pair["score_rejected"] for pair in pairs)
    loaded = load_preferences(tmp_path / "run" / "pairs.jsonl")
    assert len(loaded.train) + len(loaded.test) == len(pairs)
    assert not loaded.rejects
    views = list(Store.open(str(tmp_path / "store.db")).comparisons())
    assert [len(view.sides) for view in views] == [2] * len(pairs)
    assert "mean_score" in figures


def test_a_closed_model_answers_over_http(tmp_path: Path, prompts: Path) -> None:
    with prompts.open("a") as file:
        file.write(json.dumps({"prompt": "something forbidden"}) + "\n")
    with StandInEndpoint() as server:
        config = endpoint_settings(tmp_path, prompts, server, reward=RULE)
        figures = collect_rollouts(config)
        asked = len(server.bodies)
        assert same(collect_rollouts(config)) == same(figures)
        assert len(server.bodies) == asked == 11
    assert (figures["prompts"], figures["failed"], figures["answers"]) == (11, 1, 20)
    rows = read(tmp_path / "run" / "answers.jsonl")
    assert [row["row"] for row in rows] == list(range(1, 12))
    assert rows[10]["reason"] == "400: this prompt is against the rules"
    assert figures["tokens"] == sum(len(a["text"].split()) for row in rows for a in row["answers"])
    views = list(Store.open(str(tmp_path / "store.db")).comparisons())
    assert {model for view in views for _, model in view.sides} == {MODEL}


@pytest.mark.timeout(120)
def test_killed_in_the_middle_of_requests_it_asks_only_for_what_is_missing(
    tmp_path: Path, prompts: Path
) -> None:
    prompts.write_text("".join(json.dumps({"prompt": f"the inn {i}"}) + "\n" for i in range(80)))
    with StandInEndpoint(latency=0.05) as server:
        whole = endpoint_settings(
            tmp_path, prompts, server, run=str(tmp_path / "w"), store=str(tmp_path / "w.db")
        )
        expected = collect_rollouts(whole)
        server.bodies.clear()
        config = endpoint_settings(tmp_path, prompts, server)
        (tmp_path / "c.yaml").write_text(to_yaml(config))
        answers = tmp_path / "run" / "answers.jsonl"
        process = start(fork_server(), ["rollout", "--config", str(tmp_path / "c.yaml")], tmp_path / "log")
        while process.is_alive() and len(lines(answers)) < 20:
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
        assert same(collect_rollouts(config)) == same(expected)
        assert 80 <= len(server.bodies) <= 80 + 8  # what was under way at the kill is asked again, no more
    assert answers.read_bytes() == (tmp_path / "w" / "answers.jsonl").read_bytes()
    assert {str(one) for one in texts_in(tmp_path / "store.db")} == {
        str(one) for one in texts_in(tmp_path / "w.db")
    }


def endpoint_settings(
    tmp_path: Path, prompts: Path, server: StandInEndpoint, **changes: object
) -> RolloutConfig:
    endpoint = Endpoint(base_url=server.base_url, concurrency=8)
    return settings(tmp_path, Path(MODEL), prompts, name="", engine="openai", endpoint=endpoint, **changes)


def test_the_plan_counts_without_a_model(tmp_path: Path, prompts: Path) -> None:
    config = settings(tmp_path, Path("owner/some-model"), prompts, completions=3)
    assert plan(config)["tokens to sample, at most"] == 10 * 3 * 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["completions=1"], "set completions=2, or store=null"),
        (["completions=10"], "people rank at most 9"),
        (["keep=best"], "set `reward`"),
        (["keep=accepted", "reward=runs/reward"], "needs min_score"),
        (["min_score=1"], "min_score is for keep=best"),
        (["keep=bets"], "keep"),
        (["engine=vlm"], "engine"),
        (["endpoint.base_url=http://127.0.0.1:1/v1"], "`endpoint` is for engine=openai"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_line(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(RolloutConfig, None, ["run=r", "policy.path=p", "prompts=f.jsonl", *changes])
