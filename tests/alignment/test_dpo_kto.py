"""KTO on single answers: equal to TRL's, its data, its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset

from alignment.dpo import DPOConfig, train_dpo
from alignment.dpo.config import LossConfig
from alignment.dpo.data import tokenize_answers
from alignment.dpo.run import single_figures
from alignment.dpo.trainer import Collator, PreferenceTrainer
from alignment.dpo.unpaired import load_unpaired
from alignment.errors import AlignmentError
from alignment.models import load_policy, load_tokenizer
from alignment.trainer_progress import quiet_arguments
from alignment.tuning.apply import peft_config
from alignment.tuning.config import TuningConfig

GOOD, BAD = "thank you, by the river", "no. it is what it is"


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"where is inn {i}?"}],
            "completion": [{"role": "assistant", "content": GOOD + "!" * i if i % 2 else BAD}],
            "label": bool(i % 2),
        }
        for i in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loss_and_gradient(ours: bool, tiny_model: Path, folder: Path) -> torch.Tensor:
    """Of one batch of eight, with adapters moved off the reference, as one vector."""
    tokenizer = load_tokenizer(str(tiny_model))
    policy = load_policy(str(tiny_model))
    common = {
        "model": policy,
        "processing_class": tokenizer,
        "peft_config": peft_config(TuningConfig(rank=4), "CAUSAL_LM", policy),
    }
    arguments = {
        "per_device_train_batch_size": 8,
        "beta": 0.5,
        "precompute_ref_log_probs": True,
        **quiet_arguments(),
    }
    trainer: Any
    if ours:
        table = Dataset.from_list(
            [
                row | {"p_good": float(row["label"]), "weight": 1.0, "group": str(i), "comparison_id": i}
                for i, row in enumerate(rows(8))
            ]
        )
        data = tokenize_answers(table, tokenizer, 256, split="train", reject=pytest.fail)
        trainer = PreferenceTrainer(
            args=trl.DPOConfig(str(folder), **arguments),
            train_dataset=data,
            data_collator=Collator(tokenizer.pad_token_id, torch.empty(0)),
            settings=LossConfig(loss="kto", beta=0.5),
            max_length=256,
            cache=folder / "reference",
            **common,
        )
        assert trainer.data_collator.in_line
    else:
        trainer = trl.KTOTrainer(
            args=trl.KTOConfig(str(folder), **arguments), train_dataset=Dataset.from_list(rows(8)), **common
        )
    torch.manual_seed(6)
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    # a reference that finds every answer less likely, so that the KL is above 0
    said = [name for name in trainer.train_dataset.column_names if "ref" in name]
    assert len(said) == 2
    trainer.train_dataset = trainer.train_dataset.map(lambda row: {name: row[name] - 0.5 for name in said})
    loss = trainer.compute_loss(
        trainer.model, trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    )
    loss.backward()
    gradient = [w.grad.flatten() for n, w in trainer.model.named_parameters() if "lora_A" in n]
    kl = torch.tensor([sum(trainer._metrics["eval" if not trainer.model.training else "train"]["kl"])])
    return torch.cat([loss.detach()[None], kl, *gradient])


def test_hard_labels_equal_trl(tiny_model: Path, tmp_path: Path) -> None:
    ours = loss_and_gradient(True, tiny_model, tmp_path / "ours")
    theirs = loss_and_gradient(False, tiny_model, tmp_path / "theirs")
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-4)
    assert abs(theirs[0].item() - 0.5) > 1e-3
    assert theirs[1].item() != 0  # the KL took part


def test_it_learns_from_single_answers(tiny_model: Path, tmp_path: Path) -> None:
    data = [row | {"completion": row["completion"][0]["content"]} for row in rows(60)]
    data[7]["label"] = "yes"
    data[8]["completion"] = " "
    data[9] = {"messages": [*data[9]["prompt"], {"role": "assistant", "content": GOOD}], "label": True}
    data[10] = {"messages": [{"role": "user", "content": "hello"}], "label": True}
    config = DPOConfig(
        run=str(tmp_path / "run"),
        policy={"path": str(tiny_model)},
        data=str(write(tmp_path / "data.jsonl", data)),
        tuning={"rank": 4},
        loss="kto",
        learning_rate=1e-2,
        epochs=6,
        batch_size=8,
        microbatch=8,
        max_length=128,
    )
    figures = train_dpo(config)
    assert figures["left_out"] == {
        "label is not true, false or a probability": 1,
        "completion is empty": 1,
        "neither prompt and completion nor messages": 1,
    }
    assert figures["accuracy"] == 1.0
    assert figures["margin"] > 0.2


def test_pairs_are_taken_apart(tmp_path: Path) -> None:
    pair = {
        "prompt": [{"role": "user", "content": "where?"}],
        "chosen": [{"role": "assistant", "content": GOOD}],
        "rejected": [{"role": "assistant", "content": BAD}],
        "p_chosen": 0.75,
        "weight": 2.0,
    }
    found = load_unpaired(write(tmp_path / "pairs.jsonl", [pair])).train
    assert [m[0]["content"] for m in found["completion"]] == [GOOD, BAD]
    assert found["p_good"] == [0.75, 0.25]
    assert found["weight"] == [2.0, 2.0]
    assert len(set(found["group"])) == 1


def test_what_cannot_be_done_is_said(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(AlignmentError, match="no answer to train on \\(2 x label is not true"):
        load_unpaired(write(tmp_path / "a.jsonl", [row | {"label": None} for row in rows(2)]))
    with pytest.raises(AlignmentError, match="no answer to train on \\(it is empty"):
        load_unpaired(write(tmp_path / "b.jsonl", []))
    data = write(tmp_path / "c.jsonl", [row | {"label": True} for row in rows(4)])
    config = DPOConfig(
        run=str(tmp_path / "run"), policy={"path": str(tiny_model)}, data=str(data), loss="kto", max_length=64
    )
    with pytest.raises(AlignmentError, match="every answer is labelled good"):
        train_dpo(config)


def test_figures_of_single_answers() -> None:
    assert single_figures([3.0, 1.0, 2.0, 1.0], [1.0, 1.0, 0.0, 0.0]) == {
        "accuracy": 2.5 / 4,
        "margin": 0.5,
        "answers": 4,
    }
    assert single_figures([1.0], [1.0])["accuracy"] is None
