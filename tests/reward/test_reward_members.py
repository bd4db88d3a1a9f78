"""Several reward models on one base: each is what it would be alone, and the base below them is run once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward.card import RewardCard
from reward.config import RewardConfig
from reward.ensemble import Cautious, Ensemble, opinions
from reward.errors import RewardError
from reward.learned import LearnedScorer
from reward.members import member_names, score_members, shared_layers, trunk
from reward.model import add_member, from_base, save
from reward.train import train_reward
from tests.reward.test_reward_train import BAD, GOOD, pairs, train

IDS = [[5, 6, 7, 8, 9, 10], [20, 21], [30, 31, 32, 33]]
CONVERSATIONS = [
    [{"role": "user", "content": "where is the inn?"}, {"role": "assistant", "content": answer}]
    for answer in (GOOD, BAD, "by the river")
]


def adapted(tiny_model: Path, layers: tuple[int, ...] = (1,), members: int = 3) -> Any:
    """Members whose adapters are not zero, on these layers."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = from_base(str(tiny_model), tokenizer, dtype=torch.float32)
    targets = [f"model.layers.{layer}.mlp.{part}_proj" for layer in layers for part in ("up", "down")]
    model = get_peft_model(
        base, LoraConfig(task_type="SEQ_CLS", target_modules=targets, modules_to_save=["score"])
    )
    for number in range(1, members):
        add_member(model, number, number)
    for index, (name, weight) in enumerate(model.named_parameters()):
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(index))
    model.set_adapter("default")
    return model.eval()


def scores(model: Any, **settings: Any) -> np.ndarray:
    return score_members(model, IDS, **({"pad_token_id": 0, "batch_tokens": 100} | settings))


@pytest.mark.parametrize("layers", [(1,), (0, 1)])
def test_each_member_scores_as_it_would_alone(tiny_model: Path, layers: tuple[int, ...]) -> None:
    model = adapted(tiny_model, layers)
    names = member_names(model)
    assert names == ["default", "member-1", "member-2"]
    assert shared_layers(model, names) == layers[0]
    found = scores(model)
    for column, name in enumerate(names):
        model.set_adapter(name)
        with torch.no_grad():
            alone = [model(torch.tensor([ids])).logits.item() for ids in IDS]
        assert found[:, column].tolist() == pytest.approx(alone, abs=1e-5)
    assert len(set(found[0].round(3))) == 3
    assert scores(model, batch_tokens=1) == pytest.approx(found, abs=1e-5)


def test_the_layers_below_the_adapters_run_once(tiny_model: Path) -> None:
    model = adapted(tiny_model)
    calls = [0, 0]

    def counted(layer: int) -> Any:
        return lambda *_: calls.__setitem__(layer, calls[layer] + 1)

    for layer in (0, 1):
        trunk(model).layers[layer].register_forward_hook(counted(layer))
    before = shared_layers(model, member_names(model))  # tries it on two rows
    calls[:] = [0, 0]
    scores(model)
    tried = [3, 4]  # two members: two whole forwards, then one and a half
    assert [calls[0] - tried[0], calls[1] - tried[1]] == [1, 3]
    assert before == 1


def test_a_model_that_does_not_take_states_for_embeddings_is_run_whole(tiny_model: Path) -> None:
    model = adapted(tiny_model)
    expected = scores(model)
    inner = trunk(model)
    plain = inner.forward
    inner.forward = lambda *args, inputs_embeds=None, **others: (
        plain(*args, **others) if inputs_embeds is None else plain(inputs_embeds=inputs_embeds * 2, **others)
    )
    assert shared_layers(model, member_names(model)) == 0
    assert scores(model) == pytest.approx(expected, abs=1e-5)


def test_members_are_trained_saved_and_each_a_folder_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = from_base(str(tiny_model), tokenizer, dtype=torch.float32)
    settings = LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", modules_to_save=["score"])
    model = get_peft_model(base, settings)
    config = RewardConfig(members=2, batch_size=8, learning_rate=3e-3, epochs=3)
    figures = train_reward(config, model, tokenizer, pairs(24), pairs(8), tmp_path)
    assert figures["test"]["accuracy"] == 1.0
    assert figures["disagreement"] > 0
    assert len(figures["member_means"]) == 2

    raw = LearnedScorer(tmp_path, device="cpu")
    found = np.array(raw.opinions(CONVERSATIONS))
    assert found.shape == (3, 2)
    assert (found[0] > found[1]).all()  # each has learned
    assert raw.score(CONVERSATIONS) == pytest.approx(found.mean(1).tolist())
    normal = LearnedScorer(tmp_path, device="cpu", normalise=True)
    card = RewardCard.read(tmp_path)
    expected = (np.array(raw.score(CONVERSATIONS)) - card.score_mean) / card.score_std
    assert normal.score(CONVERSATIONS) == pytest.approx(expected.tolist())
    assert opinions(normal, CONVERSATIONS) == normal.opinions(CONVERSATIONS)

    for column, folder in enumerate((tmp_path, tmp_path / "member-1")):  # and with PEFT alone
        plain = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
        plain = PeftModel.from_pretrained(plain, folder).eval()
        with torch.no_grad():
            logits = [plain(torch.tensor([ids])).logits.item() for ids in raw.tokens(CONVERSATIONS)]
        shift = card.member_means[0] - card.member_means[column]
        assert found[:, column].tolist() == pytest.approx([logit + shift for logit in logits], abs=1e-5)


def test_a_member_that_was_not_saved_whole_is_seen(tiny_model: Path, tmp_path: Path) -> None:
    model = adapted(tiny_model)
    plain = model.save_pretrained

    def forgetful(folder: Path) -> None:
        plain(folder, selected_adapters=["default", "member-1"])

    model.save_pretrained = forgetful
    with pytest.raises(RewardError, match=r"member-2 was not saved whole"):
        save(model, AutoTokenizer.from_pretrained(tiny_model), tmp_path)


def test_members_want_adapters(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"use tuning\.method=lora or qlora"):
        train(tiny_model, tmp_path, pairs(8), members=2)


def test_caution_lowers_what_the_members_disagree_on() -> None:
    class Says:
        def __init__(self, *scores: float) -> None:
            self.scores = list(scores)

        def score(self, _: object) -> list[float]:
            return self.scores

    both = Ensemble([Says(1.0, 5.0), Says(3.0, 5.0)])  # mean 2 and 5, deviation 1 and 0
    careful = Cautious(both, 0.5)
    assert careful.score(CONVERSATIONS[:2]) == [1.5, 5.0]
    assert opinions(careful, CONVERSATIONS[:2]) == [[0.5, 2.5], [5.0, 5.0]]
    assert Cautious(Says(1.0, 2.0), 3.0).score(CONVERSATIONS[:2]) == [
        1.0,
        2.0,
    ]  # one has nobody to disagree with
