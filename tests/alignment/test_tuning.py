"""The tuning key gives the weights it names, and nothing else, to the optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alignment.errors import AlignmentError
from alignment.models import load_policy, load_tokenizer
from alignment.tuning.apply import apply_tuning, peft_config, trainable_share
from alignment.tuning.config import TuningConfig


def test_the_tiny_model_renders_the_chat_template(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the inn"}, {"role": "assistant", "content": "ok"}], return_dict=False
    )
    assert tokenizer.decode(ids) == "<|user|>the inn<|end|><|assistant|>ok<|end|>"
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_full_tuning_has_no_peft_config_and_trains_everything(tiny_model: Path) -> None:
    full = TuningConfig(method="full")
    assert peft_config(full, "CAUSAL_LM", torch.nn.Module()) is None
    assert trainable_share(apply_tuning(load_policy(str(tiny_model)), full, "CAUSAL_LM")) == 1.0


def test_lora_trains_the_adapters_only(tiny_model: Path) -> None:
    model = apply_tuning(load_policy(str(tiny_model)), TuningConfig(rank=2), "CAUSAL_LM")
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    # per layer: q, k, v, o are 32x32, gate, up, down 32x64; rank 2 on both sides
    adapters = 2 * (4 * 2 * (32 + 32) + 3 * 2 * (32 + 64))
    assert trainable_share(model) == pytest.approx(
        adapters / sum(weight.numel() for weight in model.parameters())
    )


def test_adapter_off_is_exactly_the_base(tiny_model: Path) -> None:
    base = load_policy(str(tiny_model))
    model = apply_tuning(load_policy(str(tiny_model)), TuningConfig(rank=2), "CAUSAL_LM")
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        on = model(ids).logits
        with model.disable_adapter():
            off = model(ids).logits
        assert torch.equal(off, base(ids).logits)
    assert not torch.allclose(on, off)


def test_dropout_is_zero_and_the_score_head_is_saved() -> None:
    config = peft_config(TuningConfig(), "SEQ_CLS", torch.nn.Module())
    assert config is not None
    assert config.lora_dropout == 0.0
    assert config.modules_to_save == ["score"]


def test_a_layer_that_is_not_there_is_named(tiny_model: Path) -> None:
    with pytest.raises(AlignmentError, match="c_attn"):
        apply_tuning(load_policy(str(tiny_model)), TuningConfig(target_modules=["c_attn"]), "CAUSAL_LM")
