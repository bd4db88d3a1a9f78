"""What tests of the trainers share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reward_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole reward model (not an adapter) of random weights on the tiny model. Do not write in it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from reward.card import RewardCard

    folder = tmp_path_factory.mktemp("reward") / "model"
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    RewardCard(
        score_mean=0.0, score_std=0.1, scored=2, measured_on="test", train_pairs=1, max_length=64
    ).write(folder)
    return folder


@pytest.fixture(scope="session")
def shaken_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with noise on its weights, which says other things. Do not write in it."""
    import torch

    from alignment.models import load_policy, load_tokenizer

    torch.manual_seed(5)
    model = load_policy(str(tiny_model))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    folder = tmp_path_factory.mktemp("shaken") / "model"
    model.save_pretrained(folder)
    load_tokenizer(str(tiny_model)).save_pretrained(folder)
    return folder
