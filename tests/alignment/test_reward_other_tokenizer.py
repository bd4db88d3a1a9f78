"""A reward model whose tokenizer and template are not the policy's: text is rendered anew, with one BOS."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from alignment.cli import run as align
from alignment.runs import RunFolder
from alignment.scratch import train_tokenizer
from reward.card import RewardCard
from reward.learned import LearnedScorer
from reward.model import from_base, save
from tests.alignment.ppo_config import write_ppo_config
from tests.conftest import SENTENCES

OTHER_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A reward model on a base with a vocabulary, a BOS and a template of its own."""
    tokenizer = train_tokenizer(reversed(SENTENCES), 300)
    tokenizer.add_special_tokens({"bos_token": "<|system|>"})
    tokenizer.chat_template = OTHER_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=256, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    model = from_base(str(tmp_path / "base"), tokenizer, dtype=torch.float32, seed=2)
    save(model, tokenizer, tmp_path / "other")
    card = {"score_mean": 0.1, "score_std": 0.5, "scored": 2, "measured_on": "test", "train_pairs": 1}
    RewardCard.model_validate(card | {"max_length": 256}).write(tmp_path / "other")
    return tmp_path / "other"


def test_ppo_scores_text_in_the_reward_models_own_rendering(
    tiny_model: Path, other: Path, tmp_path: Path
) -> None:
    settings = write_ppo_config(tmp_path, tiny_model, iterations=1, epochs=1, minibatches=1, sample_every=1)
    assert align(["ppo", "-c", str(settings), f"reward={other}"]) == 0
    sample = RunFolder(tmp_path / "run").rows("samples.jsonl")[0]

    policy, tokenizer = AutoTokenizer.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(other)
    text = f"<|system|>[user] {sample['prompt']}[assistant] {sample['answer']}<|end|>"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids.count(tokenizer.bos_token_id) == 1
    conversation = [
        {"role": "user", "content": sample["prompt"]},
        {"role": "assistant", "content": sample["answer"]},
    ]
    assert LearnedScorer(other, device="cpu").tokens([conversation]) == [ids]
    assert policy.apply_chat_template(conversation, return_dict=False) != ids

    plain = AutoModelForSequenceClassification.from_pretrained(other, num_labels=1)
    with torch.no_grad():
        logit = plain(torch.tensor([ids])).logits.item()
    assert sample["score"] == pytest.approx((logit - 0.1) / 0.5, abs=1e-4)
