"""Every tuning method on a small model: it starts at the base, learns, comes back from disk, and lets the base be."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from alignment.errors import AlignmentError
from alignment.models import know_adapter
from alignment.tuning.apply import TaskType, apply_tuning, peft_config, start_tuning
from alignment.tuning.config import TuningConfig
from alignment.tuning.methods import METHODS
from alignment.tuning.places import LAYER, base_modules
from alignment.tuning.rates import rate_groups
from rollout.errors import RolloutError
from rollout.transformers_engine import TransformersEngine
from tests.alignment.tuning_models import FAMILIES, family_of, learn, new_model, outputs

ADAPTERS = [name for name, method in METHODS.items() if name != "full" and not method.bits]
RATE = {"pissa": 1e-3}  # what moves the largest singular values overshoots sooner
STARTS_ELSEWHERE = {"prompt", "p_tuning", "prefix", "p_tuning_v2"}  # a random prompt is no empty one


def of_kind(family: str, task: TaskType) -> Any:
    model = new_model(family)
    if task == "CAUSAL_LM":
        return model
    torch.manual_seed(0)
    settings = copy.deepcopy(model.config)
    settings.num_labels, settings.pad_token_id = 1, 63
    classifier = AutoModelForSequenceClassification.from_config(settings)
    return classifier.eval()


def check(method: str, family: str, task: TaskType, folder: Path) -> None:
    base = of_kind(family, task)
    before = outputs(base)
    model = apply_tuning(base, TuningConfig(method=method), task)
    if method not in STARTS_ELSEWHERE:
        torch.testing.assert_close(outputs(model), before, atol=1e-6, rtol=0)
    losses = learn(model.train(), rate=RATE.get(method, 1e-2))
    assert losses[-1] < losses[0]
    learned = outputs(model.eval())
    with model.disable_adapter():
        if task == "CAUSAL_LM":  # a reward model's head was trained too
            assert torch.equal(outputs(model), before)
    assert not torch.allclose(learned, before if learned.shape == before.shape else before[:1, :1], atol=1e-6)
    model.save_pretrained(folder)
    know_adapter(str(folder))
    again = PeftModel.from_pretrained(of_kind(family, task), folder).eval()
    assert torch.equal(outputs(again), learned)
    if METHODS[method].merges:
        torch.testing.assert_close(outputs(again.merge_and_unload()), learned, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ADAPTERS)
def test_starts_learns_and_comes_back(method: str, tmp_path: Path) -> None:
    check(method, family_of(method), "CAUSAL_LM", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ADAPTERS)
def test_starts_learns_and_comes_back_in_every_family(
    method: str, family: str, task: TaskType, tmp_path: Path
) -> None:
    if family_of(method) == "mixtral" != family:
        with pytest.raises(AlignmentError, match="no experts"):
            apply_tuning(of_kind(family, task), TuningConfig(method=method), task)
        return
    if task == "SEQ_CLS" and "reward" not in METHODS[method].stages:
        with pytest.raises(AlignmentError, match="cannot be used for reward"):
            apply_tuning(of_kind(family, task), TuningConfig(method=method), task)
        return
    check(method, family, task, tmp_path)


def test_pissa_starts_from_the_first_singular_vectors_and_keeps_its_start() -> None:
    base = new_model("llama")
    weight = base.model.layers[0].self_attn.q_proj.weight.detach().clone()
    model = apply_tuning(base, TuningConfig(method="pissa", rank=4), "CAUSAL_LM")
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    values = torch.linalg.svdvals(weight)
    rest = weight - layer.scaling["default"] * up[:, :4].detach() @ down[:4].detach()
    assert torch.linalg.matrix_norm(rest).item() == pytest.approx(
        math.sqrt((values[4:] ** 2).sum()), rel=1e-2
    )
    start = down[4:].detach().clone(), up[:, 4:].detach().clone()
    learn(model, 2)
    assert torch.equal(down[4:], start[0])
    assert torch.equal(up[:, 4:], start[1])
    assert not torch.equal(down[:4], start[0])


def test_pissa_starts_alike_when_another_wraps_the_model() -> None:
    tuning = TuningConfig(method="pissa", rank=4)
    base = new_model("llama")
    model = start_tuning(PeftModel(base, peft_config(tuning, "CAUSAL_LM", base)), tuning)
    assert model.base_model.model.model.layers[0].self_attn.q_proj.lora_B["default"].weight.abs().max() > 0


def test_experts_and_router_are_trained() -> None:
    model = apply_tuning(new_model("mixtral"), TuningConfig(method="moe"), "CAUSAL_LM")
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    for part in ("self_attn.q_proj", "mlp.experts", "mlp.gate"):
        assert any(part in name for name in trained), part


@pytest.mark.parametrize("method", ["houlsby", "unipelt", "ia3", "bitfit", "layernorm"])
def test_a_deep_model_is_tuned_in_every_layer(method: str, tmp_path: Path) -> None:
    """PEFT shortens lists of 20 names and more."""
    model = apply_tuning(new_model("llama", num_hidden_layers=24), TuningConfig(method=method), "CAUSAL_LM")
    trained = {
        int(found[1]) for n, w in model.named_parameters() if w.requires_grad and (found := LAYER.search(n))
    }
    assert trained == set(range(24))
    learn(model, 2)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(new_model("llama", num_hidden_layers=24), tmp_path)
    assert torch.equal(outputs(again), outputs(model))


def test_base_modules_are_those_from_before() -> None:
    base = new_model("llama")
    before = [name for name, _ in base.named_modules()]
    for method in ("lora", "layernorm", "pfeiffer"):
        base = new_model("llama")
        apply_tuning(base, TuningConfig(method=method), "CAUSAL_LM")
        assert list(base_modules(base)) == before


def test_the_last_layers_only() -> None:
    for method in ("lora", "dora", "ia3", "bitfit", "layernorm", "houlsby", "unipelt", "boft", "full"):
        model = apply_tuning(new_model("llama"), TuningConfig(method=method, layers=1, rank=4), "CAUSAL_LM")
        trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
        assert any(".layers.1." in name for name in trained), method
        assert not any(".layers.0." in name or "embed" in name for name in trained), method


def test_lora_plus_and_layer_wise_rates() -> None:
    model = apply_tuning(new_model("llama"), TuningConfig(method="lora_plus"), "CAUSAL_LM")
    fast, slow = rate_groups(model.named_parameters(), TuningConfig(method="lora_plus"), 1e-4)
    assert (fast["lr"], slow["lr"]) == (pytest.approx(16e-4), 1e-4)
    assert len(fast["params"]) == len(slow["params"]) == 14
    full = TuningConfig(method="full", rate_decay=0.5)
    model = apply_tuning(new_model("llama"), full, "CAUSAL_LM")
    groups = rate_groups(model.named_parameters(), full, 1.0)
    names = {id(weight): name for name, weight in model.named_parameters()}
    found = {group["lr"]: {names[id(w)] for w in group["params"]} for group in groups}
    assert set(found) == {1.0, 0.5, 0.25}
    assert "lm_head.weight" in found[1.0]
    assert "model.layers.1.mlp.up_proj.weight" in found[1.0]
    assert "model.layers.0.mlp.up_proj.weight" in found[0.5]
    assert found[0.25] == {"model.embed_tokens.weight"}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"method": "moe"}, "no experts"),
        ({"method": "ia3", "target_modules": ["c_attn"]}, "layers named c_attn"),
        ({"method": "lora", "target_modules": ["c_attn"]}, "layers named c_attn"),
        ({"method": "houlsby", "target_modules": ["c_attn"]}, "layers named c_attn"),
        ({"method": "lora", "layers": 3}, "of 2 layers"),
    ],
)
def test_a_model_that_cannot_take_the_method(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(AlignmentError, match=line):
        apply_tuning(new_model("llama"), TuningConfig(**settings), "CAUSAL_LM")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"method": "lorra"}, "did you mean 'lora'"),
        ({"method": "x-lora"}, "x-lora is not offered: PEFT saves X-LoRA without"),
        ({"method": "prefix", "layers": 1}, "drop layers"),
        ({"method": "hra", "rank": 3}, "even rank"),
        ({"method": "unipelt", "target_modules": ["q_proj"]}, "drop target_modules"),
        ({"method": "lora", "rate_decay": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        TuningConfig(**settings)


def test_sizes_are_the_methods_own_unless_given() -> None:
    assert TuningConfig(method="vera").rank == 256
    assert TuningConfig(method="vera", rank=8).rank == 8
    assert TuningConfig() == TuningConfig(rank=16, alpha=32)
    assert TuningConfig.model_validate(TuningConfig(method="oft").model_dump()).rank == 32


def test_a_soft_prompt_starts_from_tokens_of_the_vocabulary() -> None:
    base = new_model("llama")
    vocabulary = base.get_input_embeddings().weight.detach().clone()
    model = apply_tuning(base, TuningConfig(method="prompt"), "CAUSAL_LM")
    start = model.get_prompt_embedding_to_save("default")
    assert start.shape == (20, 32)
    assert (start[:, None] == vocabulary).all(-1).any(-1).all()


@pytest.mark.parametrize("method", sorted(STARTS_ELSEWHERE))
def test_virtual_tokens_are_not_sampled_without_them(method: str) -> None:
    """The engine's own cache would leave them out of all but the first step."""
    model = apply_tuning(new_model("llama"), TuningConfig(method=method), "CAUSAL_LM")
    with pytest.raises(RolloutError, match="virtual tokens"):
        TransformersEngine(model, [1], 0)
