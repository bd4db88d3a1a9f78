"""Every tuning method on a small model: it starts at the base, learns, comes back from disk, and lets the base be."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from alignment.errors import AlignmentError
from alignment.models import know_adapter
from alignment.tuning.apply import TaskType, apply_tuning, peft_config, start_tuning
from alignment.tuning.bottleneck import BottleneckConfig, BottleneckLayer, Prefix
from alignment.tuning.config import TuningConfig
from alignment.tuning.methods import METHODS
from alignment.tuning.places import LAYER, base_modules
from alignment.tuning.rates import rate_groups
from rollout.errors import RolloutError
from rollout.transformers_engine import TransformersEngine
from tests.alignment.tuning_models import FAMILIES, new_model

IDS = torch.arange(64).view(4, 16)
ADAPTERS = [name for name, method in METHODS.items() if name != "full" and not method.bits]
EXPERTS_ONLY = {"moe"}
RATE = {"pissa": 1e-3}  # what moves the largest singular values overshoots sooner
STARTS_ELSEWHERE = {"prompt", "p_tuning", "prefix", "p_tuning_v2"}  # a random prompt is no empty one


def family_of(method: str) -> str:
    return "mixtral" if method in EXPERTS_ONLY else "llama"


def of_kind(family: str, task: TaskType) -> Any:
    model = new_model(family)
    if task == "CAUSAL_LM":
        return model
    torch.manual_seed(0)
    settings = copy.deepcopy(model.config)
    settings.num_labels, settings.pad_token_id = 1, 63
    classifier = AutoModelForSequenceClassification.from_config(settings)
    return classifier.eval()


@torch.no_grad()
def outputs(model: Any) -> Tensor:
    return model(input_ids=IDS).logits


def learn(model: Any, steps: int = 8, rate: float = 1e-2) -> list[float]:
    """Losses of some steps of AdamW on a fixed batch."""
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], rate, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        logits = model(input_ids=IDS).logits
        if logits.ndim == 2:  # of a reward model
            loss = torch.nn.functional.softplus(-logits.diff(dim=0)).mean()
        else:
            loss = torch.nn.functional.cross_entropy(logits[:, -16:-1].flatten(0, 1), IDS[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


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
    if method in EXPERTS_ONLY and family != "mixtral":
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


@pytest.mark.parametrize(
    ("method", "part"),
    [
        ("houlsby", "self_attn.o_proj.bottleneck"),
        ("pfeiffer", "mlp.bottleneck"),
        ("unipelt", "q_proj.bottleneck"),
        ("unipelt", "mlp.bottleneck"),
        ("unipelt", "o_proj.bottleneck_layers.default.keys"),
    ],
)
def test_bottlenecks_sit_where_the_papers_put_them(method: str, part: str) -> None:
    model = apply_tuning(new_model("llama"), TuningConfig(method=method), "CAUSAL_LM")
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert any(part in name for name in trained)
    assert any("gate.weight" in name for name in trained) == (method == "unipelt")
    if method == "pfeiffer":
        assert not any("self_attn" in name for name in trained)


def test_a_prefix_attends_apart_from_the_text() -> None:
    """Two heads of size 1, two virtual tokens: 1 / sqrt(e) is 1, the gate is sigmoid(ln 3) = 3/4."""
    queries = BottleneckLayer(torch.nn.Linear(2, 2))
    prefix = Prefix(BottleneckConfig(width=2, head_size=1, gated=True), 2, queries)
    with torch.no_grad():
        prefix.gate.bias.fill_(math.log(3))
        prefix.keys.copy_(torch.tensor([[[0.0], [math.log(4)]], [[0.0], [math.log(2)]]]))
        prefix.values.copy_(torch.tensor([[[5.0], [10.0]], [[3.0], [0.0]]]))
    queries._given = torch.tensor([[1.0, -1.0]])
    said = prefix.enter(torch.tensor([[100.0, 200.0]]))
    # head 1 weighs its tokens 1:4, which gives 9; head 2 weighs them 1:1/2, which gives 2
    torch.testing.assert_close(said, torch.tensor([[100 + 0.75 * 9, 200 + 0.75 * 2]]))


@torch.no_grad()
def test_a_prefix_says_the_same_from_a_cache() -> None:
    model = apply_tuning(new_model("llama"), TuningConfig(method="unipelt"), "CAUSAL_LM").eval()
    before = outputs(model)
    for name, weight in model.named_parameters():
        if name.endswith("default.values"):
            torch.nn.init.normal_(weight)
    whole = outputs(model)
    assert (whole - before).abs().max() > 1e-3
    first = model(input_ids=IDS[:, :10], use_cache=True)
    rest = model(input_ids=IDS[:, 10:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole, atol=1e-5, rtol=0)


def test_an_attention_that_cannot_have_a_prefix_is_named() -> None:
    model = new_model("llama")
    model.model.layers[1].self_attn.o_proj = torch.nn.Linear(48, 32)
    with pytest.raises(AlignmentError, match=r"the queries of model\.layers\.1\.self_attn\.o_proj are not"):
        apply_tuning(model, TuningConfig(method="unipelt"), "CAUSAL_LM")


@pytest.mark.parametrize("method", ["houlsby", "unipelt", "moe"])
def test_two_adapters_on_one_base_switch_exactly(method: str) -> None:
    base = new_model(family_of(method))
    tuning = TuningConfig(method=method)
    model = apply_tuning(base, tuning, "CAUSAL_LM")
    model.add_adapter("second", peft_config(tuning, "CAUSAL_LM", base))
    first = outputs(model)
    learn(model, 3)
    learned = outputs(model)
    model.set_adapter("second")
    assert torch.equal(outputs(model), first)
    model.set_adapter("default")
    assert torch.equal(outputs(model), learned)


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


def test_a_model_without_the_named_blocks() -> None:
    from tests.families import random_model

    with pytest.raises(AlignmentError, match="feed-forward blocks"):
        apply_tuning(random_model("gpt2"), TuningConfig(method="pfeiffer"), "CAUSAL_LM")


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
