"""`align reward train|eval|score` as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from alignment.errors import AlignmentError
from alignment.models import load_policy
from alignment.preferences import load_preferences
from alignment.rewards import RewardRunConfig, load_base, plan, train_reward_model
from alignment.scored_file import score_file
from alignment.scoring import evaluate_reward
from alignment.tuning.apply import apply_tuning
from alignment.tuning.config import TuningConfig
from reward.errors import RewardError
from reward.learned import LearnedScorer


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """40 pairs, one of them with two equal sides and one far too long."""
    path = tmp_path / "pairs.jsonl"
    rows = [
        {
            "prompt": [{"role": "user", "content": f"where is inn {i}?"}],
            "chosen": [{"role": "assistant", "content": "thank you, by the river"}],
            "rejected": [{"role": "assistant", "content": "no"}],
            "p_chosen": 0.9,
        }
        for i in range(40)
    ]
    rows[3]["rejected"] = rows[3]["chosen"]
    rows[4]["rejected"] = [{"role": "assistant", "content": "no " * 200}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(tiny_model: Path, pairs: Path, **keys: Any) -> RewardRunConfig:
    defaults = {
        "run": str(pairs.parent / "run"),
        "base": {"path": str(tiny_model)},
        "data": str(pairs),
        "tuning": {"rank": 4},
        "learning_rate": 3e-3,
        "epochs": 3,
        "batch_size": 8,
        "max_length": 128,
    }
    return RewardRunConfig(**(defaults | keys))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_train_eval_and_score(tiny_model: Path, pairs: Path, method: str) -> None:
    settings = config(tiny_model, pairs, tuning={"method": method, "rank": 4})
    figures = train_reward_model(settings)
    run = Path(settings.run)
    assert figures["accuracy"] == 1.0
    assert figures["left_out"] == {"both sides are the same": 1, "longer than 128 tokens": 1}
    rejects = [json.loads(line) for line in (run / "rejects.jsonl").read_text().splitlines()]
    assert {r["reason"] for r in rejects} == set(figures["left_out"])
    assert json.loads((run / "summary.json").read_text()) == figures
    assert (run / "model" / "adapter_config.json").exists() == (method == "lora")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3 * -(-figures["train_pairs"] // 8)
    assert not any("runtime" in key for row in rows for key in row)

    measured = evaluate_reward(str(run), str(pairs))
    assert measured["accuracy"] == 1.0
    assert measured["left_out"] == {"both sides are the same": 1, "longer than 256 tokens": 1}  # its context
    answers = pairs.parent / "answers.jsonl"
    answers.write_text(
        '{"prompt": "where is inn 1?", "completion": "thank you, by the river"}\n{"prompt": "x", "completion": "no"}\n'
    )
    score_file(str(run), answers, pairs.parent / "scored.jsonl")
    scored = [json.loads(line) for line in (pairs.parent / "scored.jsonl").read_text().splitlines()]
    assert scored[0]["score"] > scored[1]["score"]
    assert scored[1]["completion"] == "no"

    # and in plain Transformers and PEFT
    ids = torch.tensor([AutoTokenizer.from_pretrained(run / "model").apply_chat_template(
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "no"}], return_dict=False)])  # fmt: skip
    plain = AutoModelForSequenceClassification.from_pretrained(
        tiny_model if method == "lora" else run / "model", num_labels=1
    )
    if method == "lora":
        plain = PeftModel.from_pretrained(plain, run / "model")
    with torch.no_grad():
        assert plain.eval()(ids).logits.item() == pytest.approx(scored[1]["score"], abs=1e-5)


def test_qlora_learns_on_a_4_bit_base_and_keeps_the_head_whole(tiny_model: Path, pairs: Path) -> None:
    settings = config(tiny_model, pairs, tuning={"method": "qlora", "rank": 4})
    model, _ = load_base(settings)
    kinds = {name: type(weight).__name__ for name, weight in model.named_parameters()}
    assert any(kind == "Params4bit" for kind in kinds.values())
    assert not any(kind == "Params4bit" for name, kind in kinds.items() if "score" in name)
    assert train_reward_model(settings)["accuracy"] == 1.0
    assert evaluate_reward(settings.run, str(pairs))["accuracy"] == 1.0  # on the base in full precision


def test_the_same_seed_gives_the_same_model(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    first = train_reward_model(config(tiny_model, pairs, run=str(tmp_path / "a"), epochs=1))
    second = train_reward_model(config(tiny_model, pairs, run=str(tmp_path / "b"), epochs=1))
    other = train_reward_model(config(tiny_model, pairs, run=str(tmp_path / "c"), epochs=1, seed=1))
    assert first == second
    assert first["score_mean"] != other["score_mean"]


def test_an_existing_run_is_kept(tiny_model: Path, pairs: Path) -> None:
    train_reward_model(config(tiny_model, pairs, epochs=0.2))
    with pytest.raises(AlignmentError, match="already exists"):
        train_reward_model(config(tiny_model, pairs))
    train_reward_model(config(tiny_model, pairs, epochs=0.2), overwrite=True)


def test_starting_from_a_policy_adapter_goes_on_with_it(
    tiny_model: Path, pairs: Path, tmp_path: Path
) -> None:
    policy = apply_tuning(load_policy(str(tiny_model)), TuningConfig(rank=2), "CAUSAL_LM")
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    policy.save_pretrained(tmp_path / "policy")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "policy")
    settings = config(tiny_model, pairs, base={"path": str(tmp_path / "policy")})
    model, _ = load_base(settings)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        trunk = model.eval().get_base_model().model(ids).last_hidden_state
        expected = policy.eval().get_base_model().model(ids).last_hidden_state
    assert torch.equal(trunk, expected)
    assert all(
        w.requires_grad == ("lora_" in n or "score.modules_to_save" in n) for n, w in model.named_parameters()
    )
    assert train_reward_model(settings)["accuracy"] == 1.0
    saved = json.loads((Path(settings.run) / "model" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(tiny_model)  # still the policy's base
    with pytest.raises(AlignmentError, match="for full tuning start from a whole model"):
        load_base(
            config(tiny_model, pairs, base={"path": str(tmp_path / "policy")}, tuning={"method": "full"})
        )


def test_a_base_whose_pad_is_eos(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "base")
    settings = config(tiny_model, pairs, base={"path": str(tmp_path / "base")}, tuning={"method": "full"})
    assert train_reward_model(settings)["accuracy"] == 1.0
    saved = AutoTokenizer.from_pretrained(Path(settings.run) / "model")
    assert saved.pad_token_id != saved.eos_token_id
    answers = [[*row["prompt"], *row["chosen"]] for row in load_preferences(pairs).train]
    scorer = LearnedScorer(Path(settings.run) / "model", device="cpu")
    assert scorer.score(answers)[0] == pytest.approx(scorer.score(answers[:1])[0], abs=1e-5)


def test_the_plan_loads_no_weights(tiny_model: Path, pairs: Path) -> None:
    planned = plan(config(tiny_model, pairs))
    assert planned["optimizer steps"] == 3 * -(-len(load_preferences(pairs).train) // 8)
    assert "1 left out" in planned["pairs"]


def test_a_policy_is_no_reward_model(tiny_model: Path, pairs: Path) -> None:
    with pytest.raises(RewardError, match="no score head"):
        evaluate_reward(str(tiny_model), str(pairs))
