"""Loading: what cannot be a policy says so in one line, and pad = eos is no trouble."""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from alignment.errors import AlignmentError
from alignment.models import (
    base_of,
    load_policy,
    load_tokenizer,
    resolve,
    stop_token_ids,
)


@pytest.fixture
def tokenizer_folder(tiny_model, tmp_path):
    """Saves a changed copy of the tokenizer; returns the folder."""

    def save(**changes):
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        for name, value in changes.items():
            setattr(tokenizer, name, value)
        tokenizer.save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
        return str(tmp_path)

    return save


def test_a_missing_chat_template(tokenizer_folder):
    with pytest.raises(AlignmentError, match="has no chat template"):
        load_tokenizer(tokenizer_folder(chat_template=None))


def test_a_missing_pad_token_becomes_eos(tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder(pad_token=None))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert tokenizer.padding_side == "right"


def test_no_eos_no_end(tokenizer_folder):
    with pytest.raises(AlignmentError, match="no EOS token"):
        load_tokenizer(tokenizer_folder(eos_token=None))


def test_a_run_folder_stands_for_its_model(tiny_model, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(tiny_model)
    assert resolve(str(tmp_path / "run")) == str(tmp_path / "run" / "model")
    assert resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    with pytest.raises(AlignmentError, match="no model at runs/sft"):
        resolve("runs/sft")
    with pytest.raises(AlignmentError, match="holds no model"):
        resolve(str(tmp_path))


def test_a_reward_model_is_refused_as_policy(tiny_model, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1).save_pretrained(tmp_path)
    with pytest.raises(AlignmentError, match="is a reward model"):
        load_policy(str(tmp_path))


def test_a_reward_adapter_is_refused_as_policy(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2)).save_pretrained(tmp_path)
    with pytest.raises(AlignmentError, match="is a reward model"):
        load_policy(str(tmp_path))


def test_pickled_weights_are_refused(tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM

    weights = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(AlignmentError, match="cannot load"):
        load_policy(str(tmp_path))


def test_several_stop_tokens(tiny_model):
    model, tokenizer = load_policy(str(tiny_model)), load_tokenizer(str(tiny_model))
    model.generation_config.eos_token_id = [7, 9]
    assert stop_token_ids(model, tokenizer) == tuple(sorted({7, 9, tokenizer.eos_token_id}))


def test_an_adapter_that_names_no_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": None}))
    with pytest.raises(AlignmentError, match="does not name its base"):
        base_of(str(tmp_path))
