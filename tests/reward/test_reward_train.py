"""Training on soft labels: equal to TRL where labels are hard, and honest about what it left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from pydantic import ValidationError
from transformers import AutoTokenizer

import reward.train
from reward.card import RewardCard
from reward.config import RewardConfig
from reward.errors import RewardError
from reward.labels import LabelModel, with_raters
from reward.learned import LearnedScorer
from reward.model import from_base
from reward.pairs import tokenize_pairs
from reward.train import train_reward
from reward.trainer import PairCollator, PairTrainer

GOOD, BAD = "thank you, the river inn is friendly", "no. it is what it is"


def row(number: int, chosen: str = GOOD, rejected: str = BAD, **labels: Any) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": f"where is the inn, guest {number}?"}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "p_chosen": 1.0,
        "margin": 0.0,
        "weight": 1.0,
        "source": "human" if number % 2 else "judge",
        "annotator": "scripted-a",
        "comparison_id": number,
        "group": f"g{number}",
    } | labels


def pairs(count: int, **labels: Any) -> Dataset:
    return Dataset.from_list([row(i, **labels) for i in range(count)])


def train(
    tiny_model: Path, folder: Path, data: Dataset, test: Dataset | None = None, **keys: Any
) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = from_base(str(tiny_model), tokenizer, dtype=torch.float32)
    config = RewardConfig(**{"batch_size": 8, "learning_rate": 3e-3, "epochs": 3, **keys})
    return train_reward(config, model, tokenizer, data, test, folder, data_hash="abc")


def losses_of(
    shared: bool | None, tiny_model: Path, folder: Path, data: Dataset, **keys: Any
) -> torch.Tensor:
    """The loss and the head's gradient of one batch, as one vector. shared: None is TRL's own trainer."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = from_base(str(tiny_model), tokenizer, dtype=torch.float32)
    args = trl.RewardConfig(
        str(folder), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        center_rewards_coefficient=0.01,
    )  # fmt: skip
    pairs = tokenize_pairs(data, tokenizer, 256, split="train", reject=print)
    if shared is None:
        trainer: Any = trl.RewardTrainer(
            model=model, args=args, train_dataset=pairs.remove_columns("margin"), processing_class=tokenizer
        )
    else:
        pairs, raters = with_raters(pairs)
        trainer = PairTrainer(
            model=model,
            args=args,
            train_dataset=pairs,
            processing_class=tokenizer,
            data_collator=PairCollator(tokenizer.pad_token_id, shared=shared),
            label_model=LabelModel(RewardConfig(**keys), raters),
        )
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(model, inputs)
    loss.backward()
    return torch.cat([loss.detach()[None], model.score.weight.grad.flatten()])


@pytest.mark.parametrize("shared", [False, True])
def test_hard_labels_equal_trl(tiny_model: Path, tmp_path: Path, shared: bool) -> None:
    ours = losses_of(shared, tiny_model, tmp_path, pairs(8))
    theirs = losses_of(None, tiny_model, tmp_path, pairs(8))
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert theirs[1:].abs().max() > 1e-3


def test_a_swapped_pair_at_p_zero_equals_the_pair(tiny_model: Path, tmp_path: Path) -> None:
    there = losses_of(True, tiny_model, tmp_path, pairs(8))
    swapped = pairs(8, chosen=BAD, rejected=GOOD, p_chosen=0.0)
    back = losses_of(True, tiny_model, tmp_path, swapped)
    assert torch.allclose(there, back, atol=1e-6)


def test_it_learns_saves_and_says_how_well(tiny_model: Path, tmp_path: Path) -> None:
    figures = train(tiny_model, tmp_path, pairs(24), pairs(8))
    assert figures["test"]["accuracy"] == 1.0
    assert figures["test"]["pairs"] == 8
    assert set(figures["test_by_source"]) == {"human", "judge"}
    assert figures["data"] == "abc"
    card = RewardCard.read(tmp_path)
    assert card.model_dump() == figures
    assert json.loads((tmp_path / "reward.json").read_text())["score_std"] > 0
    answers = [[*r["prompt"], *r[side]] for r in pairs(8) for side in ("chosen", "rejected")]
    normal = torch.tensor(LearnedScorer(tmp_path, device="cpu", normalise=True).score(answers))
    assert normal.mean().item() == pytest.approx(0, abs=1e-4)  # the card was measured on these very answers
    assert normal.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert (normal[::2] > normal[1::2]).all()


def test_soft_labels_bound_the_gap(tiny_model: Path, tmp_path: Path) -> None:
    sure = train(tiny_model, tmp_path / "sure", pairs(16), pairs(8), epochs=10)
    soft = train(tiny_model, tmp_path / "soft", pairs(16, p_chosen=0.7), pairs(8), epochs=10)
    # at p = 0.7 the best gap is log(0.7 / 0.3) = 0.85; hard labels know no bound
    assert soft["test"]["margin"] == pytest.approx(0.85, abs=0.3)
    assert sure["test"]["margin"] > 2


def test_a_weight_of_zero_silences_a_pair(tiny_model: Path, tmp_path: Path) -> None:
    wrong = [row(i, chosen=BAD, rejected=GOOD, weight=0.0) for i in range(24)]
    data = Dataset.from_list([row(i) for i in range(8)] + wrong)
    assert train(tiny_model, tmp_path, data, pairs(8))["test"]["accuracy"] == 1.0


def test_the_microbatch_changes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    data = Dataset.from_list([row(i, weight=1.0 + i % 3, p_chosen=0.6 + 0.05 * (i % 5)) for i in range(16)])
    figures = [
        train(tiny_model, tmp_path / str(micro), data, pairs(4), microbatch=micro, epochs=1)
        for micro in (8, 2)
    ]
    assert figures[0]["score_mean"] == pytest.approx(figures[1]["score_mean"], abs=1e-4)
    assert figures[0]["test"]["margin"] == pytest.approx(figures[1]["test"]["margin"], abs=1e-4)


def test_sharing_the_prompt_changes_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pairs(16)  # all of one length, so that both ways draw the same batches
    figures = []
    for largest in (reward.train.LARGEST_MASK, 0):
        monkeypatch.setattr(reward.train, "LARGEST_MASK", largest)
        figures.append(train(tiny_model, tmp_path / str(largest), data, pairs(4), epochs=1))
    assert figures[0]["score_mean"] == pytest.approx(figures[1]["score_mean"], abs=1e-4)
    assert figures[0]["test"]["margin"] == pytest.approx(figures[1]["test"]["margin"], abs=1e-4)


def test_long_pairs_are_listed_not_dropped_in_silence(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = from_base(str(tiny_model), tokenizer, dtype=torch.float32)
    data = Dataset.from_list([row(0), row(1, rejected="inn " * 100), row(2)])
    rejects: list[dict[str, Any]] = []
    config = RewardConfig(max_length=80, batch_size=2)
    figures = train_reward(config, model, tokenizer, data, None, tmp_path, reject=rejects.append)
    assert figures["left_out"] == {"longer than 80 tokens": 1}
    assert figures["train_pairs"] == 2
    assert rejects == [{"split": "train", "row": 1, "comparison_id": 1, "reason": "longer than 80 tokens"}]
    assert figures["measured_on"] == "train"
    with pytest.raises(RewardError, match="every train pair is longer than 8 tokens"):
        train_reward(RewardConfig(max_length=8), model, tokenizer, data, None, tmp_path)


def test_all_weights_zero_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="weights sum to 0"):
        train(tiny_model, tmp_path, pairs(4, weight=0.0))


def test_a_microbatch_that_does_not_divide_the_batch_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"multiple of microbatch \(3\)"):
        RewardConfig(batch_size=8, microbatch=3)


def test_a_long_prompt_loses_its_beginning_if_asked(tiny_model: Path, tmp_path: Path) -> None:
    long = [{"role": "user", "content": "inn " * 100 + "where is it?"}]
    data = Dataset.from_list([row(0), row(1) | {"prompt": long}, row(2, rejected="inn " * 100)])
    figures = train(tiny_model, tmp_path, data, max_length=80, batch_size=2, too_long="truncate", epochs=1)
    assert figures["truncated"] == 1
    assert figures["train_pairs"] == 2
    assert figures["left_out"] == {"its answers alone are longer than 80 tokens": 1}


def test_a_judge_who_throws_coins_is_found_out(tiny_model: Path, tmp_path: Path) -> None:
    people = [row(2 * i + 1, annotator="ann") for i in range(32)]
    coins = [
        row(2 * i, annotator="coin", **({} if i % 2 else {"chosen": BAD, "rejected": GOOD}))
        for i in range(32)
    ]
    data = Dataset.from_list(people + coins)
    figures = train(tiny_model, tmp_path, data, pairs(8), reliability=True, ties="davidson", epochs=6)
    reliability = figures["labels"]["reliability"]
    assert reliability["ann"] > 1.3
    assert reliability["coin"] < 0.7
    assert figures["labels"]["ties"]["log_tie"] < -0.5  # nobody called a tie
    assert figures["test"]["accuracy"] == 1.0
