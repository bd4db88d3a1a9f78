"""What is handed to an engine: read back by plain PEFT and plain Transformers it is the policy."""

from __future__ import annotations

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rollout import RolloutError
from rollout.merging import adapters_merged
from rollout.vllm_engine import merged
from rollout.weights import has_adapters, named_weights, write_adapter

IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture
def base(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.fixture
def policy(base):
    """Two adapters, of which the one in use is not the first and not called default."""
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(base, lora, adapter_name="critic")
    model.add_adapter(
        "policy", LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    model.set_adapter("policy")
    return model.eval()


@torch.no_grad()
def test_plain_peft_reads_the_active_adapter(policy, tiny_model, tmp_path):
    write_adapter(policy, tmp_path / "adapter")
    read = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path / "adapter"
    ).eval()
    assert read.peft_config["default"].r == 2
    assert torch.equal(read(IDS).logits, policy(IDS).logits)


@torch.no_grad()
def test_weights_are_those_of_the_checkpoint_with_the_adapter_or_without(policy, base, tiny_model):
    plain = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    assert has_adapters(policy)
    assert not has_adapters(plain)
    bare = dict(named_weights(policy))
    assert bare.keys() == dict(plain.named_parameters()).keys()
    assert all(torch.equal(bare[name], weight) for name, weight in named_weights(plain))
    with adapters_merged(policy):
        plain.load_state_dict({name: weight.clone() for name, weight in named_weights(policy)})
    assert torch.allclose(plain(IDS).logits, policy(IDS).logits, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        IA3Config(target_modules=["k_proj"], feedforward_modules=[]),
        LoraConfig(target_modules=["q_proj"], use_dora=True),
        LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    ],
)
def test_what_cannot_be_merged_is_not_delivered_without_it(base, config):
    with pytest.raises(RolloutError, match="cannot be merged into its weights: use engine=transformers"):
        merged(get_peft_model(base, config))


def test_what_no_engine_takes_is_refused(base, tmp_path):
    other = get_peft_model(base, IA3Config(target_modules=["k_proj"], feedforward_modules=[]))
    with pytest.raises(RolloutError, match="takes one LoRA adapter"):
        write_adapter(other, tmp_path)
