"""What SFT does to a step besides the loss: noise on the embeddings, rates by layer, and when it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from alignment.sft import train_sft
from tests.alignment.sft_runs import sft_config, write
from tests.alignment.test_sft import interrupted_at

ROWS = [{"prompt": f"guest {i}?", "completion": "fish near " * (1 + i % 5)} for i in range(24)]


@pytest.mark.parametrize("method", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_neftune_puts_noise_on_the_embeddings_while_training_only(
    method: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uniform within alpha / sqrt(tokens x width), as the paper has it."""
    from trl import SFTTrainer

    found = []
    original = SFTTrainer.training_step

    def watched(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        loss = original(self, model, inputs, *rest)
        embed = self.accelerator.unwrap_model(model).get_input_embeddings()
        ids = inputs["input_ids"]
        with torch.no_grad():
            noise = embed(ids) - embed.weight[ids]
            within = 5 / (ids.shape[1] * embed.weight.shape[1]) ** 0.5
            quiet = embed.eval()(ids) - embed.weight[ids]
        found.append(
            (noise.abs().max().item() / within, noise.mean().item() / within, quiet.abs().max().item())
        )
        return loss

    monkeypatch.setattr(SFTTrainer, "training_step", watched)
    data = write(tmp_path / "data.jsonl", ROWS)
    keys = {"data": data, "tuning": {"method": method}, "neftune": 5, "max_steps": 2}
    train_sft(sft_config(tiny_model, tmp_path / "run", **keys))
    assert len(found) == 4
    for largest, mean, quiet in found:
        assert 0.95 < largest <= 1.0001
        assert abs(mean) < 0.1
        assert quiet == 0


def test_lower_layers_learn_at_lower_rates(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[dict[str, float]] = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, model: Any = None, optimizer: Any = None, **__: Any) -> None:
            names = {id(weight): name for name, weight in model.named_parameters()}
            rates.append({names[id(w)]: g["lr"] for g in optimizer.param_groups for w in g["params"]})

    from alignment import sft

    build = sft.build_trainer

    def watched(*arguments: Any) -> Any:
        trainer = build(*arguments)
        trainer.add_callback(Watch())
        return trainer

    monkeypatch.setattr(sft, "build_trainer", watched)
    data = write(tmp_path / "data.jsonl", ROWS)
    keys = {"data": data, "tuning": {"method": "full", "rate_decay": 0.5}, "max_steps": 3, "warmup": 0}
    train_sft(sft_config(tiny_model, tmp_path / "run", learning_rate=0.01, **keys))
    assert len(rates) == 3
    for step, of in enumerate(rates):
        top = of["lm_head.weight"]
        assert step or top == pytest.approx(0.01)
        assert of["model.layers.1.mlp.up_proj.weight"] == top
        assert of["model.layers.0.mlp.up_proj.weight"] == pytest.approx(top / 2)
        assert of["model.embed_tokens.weight"] == pytest.approx(top / 4)


def test_a_resumed_run_stops_where_an_unbroken_one_does(tiny_model: Path, tmp_path: Path) -> None:
    """It was broken after a checkpoint that was no better than the best."""
    keys: dict[str, Any] = {
        "data": write(tmp_path / "data.jsonl", ROWS),
        "epochs": 12,
        "learning_rate": 0.3,
        "tuning": {"method": "full"},
        "save_every": 2,
        "patience": 2,
    }
    whole = train_sft(sft_config(tiny_model, tmp_path / "whole", **keys))
    assert whole["steps"] < 60
    config = sft_config(tiny_model, tmp_path / "broken", **keys)
    with pytest.raises(KeyboardInterrupt), interrupted_at(whole["steps"] - 1):
        train_sft(config)
    again = train_sft(config, resume=True)
    assert again["steps"] == whole["steps"]
    assert again["held_out_loss"] == whole["held_out_loss"]
    rows = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "broken")]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_an_alarm_is_raised_once_however_often_a_run_is_resumed(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both alarms are at the first checkpoint; the run is broken after it."""
    question = {"prompt": "where?", "choices": ["by the river", "fish near fish near"], "answer": 0}
    first = train_sft(
        sft_config(
            tiny_model,
            tmp_path / "first",
            data=write(tmp_path / "first.jsonl", [{"prompt": "where?", "completion": "by the river"}] * 20),
            tuning={"method": "full"},
            max_steps=20,
            general_tasks=write(tmp_path / "tasks.jsonl", [question] * 3),
        )
    )
    assert first["tasks"]["accuracy"] == 1
    keys: dict[str, Any] = {
        "data": write(tmp_path / "data.jsonl", [{**row, "prompt": "where?"} for row in ROWS]),
        "general": write(
            tmp_path / "general.jsonl", [{"prompt": "where?", "completion": "by the river"}] * 3
        ),
        "general_tasks": str(tmp_path / "tasks.jsonl"),
        "tuning": {"method": "full"},
        "save_every": 10,
        "max_steps": 20,
    }
    config = sft_config(tmp_path / "first", tmp_path / "broken", **keys)
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt), interrupted_at(12):
        train_sft(config)
    assert capsys.readouterr().err.count("forgetting: at step 10") == 2
    figures = train_sft(config, resume=True)
    assert "forgetting" not in capsys.readouterr().err
    assert figures["forgetting_alarm"]
    assert figures["tasks_alarm"]
