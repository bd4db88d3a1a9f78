"""The engine on vLLM in this process: it says what the trainer's policy says, and a delivery that fails is noticed."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rollout import RolloutError, Sampling, TransformersEngine

pytest.importorskip("vllm")

from rollout.vllm_engine import VllmEngine
from tests.vllm.plain_forward import gap

STOP = 1
PROMPTS = [[5, 6, 7], [8], list(range(9, 60)), [15, 16], [9, 10, 11, 12, 13, 14]]
SMALL: dict[str, Any] = {"dtype": "float32", "max_model_len": 128, "cache_gib": 0.25}
Policy = Callable[..., Any]


@pytest.fixture(scope="module")
def whole(wide_model: Path) -> Iterator[VllmEngine]:
    """An engine that is given whole weights."""
    engine = VllmEngine(str(wide_model), [STOP], **SMALL)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def adapted(wide_model: Path) -> Iterator[VllmEngine]:
    """An engine that is given an adapter."""
    engine = VllmEngine(str(wide_model), [STOP], adapter_rank=4, **SMALL)
    yield engine
    engine.close()


@pytest.fixture
def policy(wide_model: Path) -> Policy:
    """Makes the model with a random adapter, under the names of PPO: the policy's is in use, the critic's beside it."""

    def make(seed: int, **settings: Any) -> Any:
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(wide_model, **settings)
        lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(base, lora)
        model.add_adapter("critic", lora)
        return model.eval()

    return make


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_a_plain_forward(
    whole: VllmEngine, wide_model: Path, temperature: float
) -> None:
    model = AutoModelForCausalLM.from_pretrained(wide_model)
    whole.sync(model)
    sampling = Sampling(max_new_tokens=40, temperature=temperature)
    completions = whole.generate(PROMPTS * 8, sampling)
    assert gap(model, PROMPTS * 8, completions, temperature) < 1e-3
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for c in completions:
        assert (c.token_ids[-1] == STOP) is (c.finish_reason == "stop")
        assert STOP not in c.token_ids[:-1]
        assert len(c.token_ids) == 40 or c.finish_reason == "stop"


def test_greedy_is_what_the_embedded_engine_says(whole: VllmEngine, wide_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(wide_model)
    whole.sync(model)
    greedy = Sampling(max_new_tokens=12, temperature=0.0)
    for one, other in zip(
        whole.generate(PROMPTS, greedy),
        TransformersEngine(model, [STOP], 0).generate(PROMPTS, greedy),
        strict=True,
    ):
        assert (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_several_stop_tokens_and_none(whole: VllmEngine) -> None:
    settings, before = Sampling(max_new_tokens=30), whole.stop_token_ids
    try:
        whole.stop_token_ids = list(range(1, 60))
        short = whole.generate(PROMPTS, settings)
        whole.stop_token_ids = []
        full = whole.generate(PROMPTS, settings)
    finally:
        whole.stop_token_ids = before
    assert all(c.token_ids[-1] < 60 for c in short if c.finish_reason == "stop")
    assert any(len(c.token_ids) < 30 for c in short)
    assert all(c.finish_reason == "length" and len(c.token_ids) == 30 for c in full)


def test_an_answer_is_cut_where_the_context_ends(whole: VllmEngine) -> None:
    whole.stop_token_ids, before = [], whole.stop_token_ids
    try:
        (c,) = whole.generate([[5] * 120], Sampling(max_new_tokens=64))
    finally:
        whole.stop_token_ids = before
    assert (len(c.token_ids), c.finish_reason) == (8, "length")


def test_full_weights_are_delivered_again_and_again(whole: VllmEngine, wide_model: Path) -> None:
    for seed in range(3):
        model = AutoModelForCausalLM.from_pretrained(wide_model)
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.02)
        version = whole.sync(model)
        completions = whole.generate(PROMPTS, Sampling(max_new_tokens=20))
        assert {c.policy_version for c in completions} == {version}
        assert gap(model, PROMPTS, completions) < 1e-3


def test_an_adapter_is_merged_into_whole_weights_and_the_policy_stays_as_it_was(
    whole: VllmEngine, policy: Policy
) -> None:
    model = policy(1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    whole.sync(model)
    assert gap(model, PROMPTS, whole.generate(PROMPTS, Sampling(max_new_tokens=20))) < 1e-3
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_an_adapter_is_delivered_again_and_again(adapted: VllmEngine, policy: Policy) -> None:
    for seed in (1, 2):
        model = policy(seed)
        version = adapted.sync(model)
        completions = adapted.generate(PROMPTS, Sampling(max_new_tokens=20))
        assert {c.policy_version for c in completions} == {version}
        assert gap(model, PROMPTS, completions) < 1e-3
    assert gap(policy(1), PROMPTS, completions) > 0.1  # another adapter, and it shows


def test_seeds_and_state_decide_what_is_said(whole: VllmEngine) -> None:
    settings = Sampling(max_new_tokens=12)
    whole.reseed(7)
    state = whole.state_dict()
    first, second = (whole.generate(PROMPTS, settings) for _ in range(2))
    assert [c.token_ids for c in first] != [c.token_ids for c in second]
    whole.load_state_dict(state)
    assert [c.token_ids for c in whole.generate(PROMPTS, settings)] == [c.token_ids for c in first]
    whole.reseed(7)
    some = whole.generate(PROMPTS, settings, rows=[3, 0])
    assert [c.token_ids for c in some] == [first[3].token_ids, first[0].token_ids]
    assert [c.token_ids for c in whole.generate(PROMPTS, settings)] == [c.token_ids for c in second]


def test_answers_to_one_prompt_differ(whole: VllmEngine) -> None:
    assert len({c.token_ids for c in whole.generate([PROMPTS[0]] * 8, Sampling(max_new_tokens=12))}) == 8


@pytest.mark.parametrize("prompt", [[], [5] * 128, [5] * 500])
def test_prompts_without_room_are_refused(whole: VllmEngine, prompt: list[int]) -> None:
    with pytest.raises(RolloutError, match=f"prompt 1 has {len(prompt)} tokens, the model's context 128"):
        whole.generate([[5], prompt], Sampling())


def test_a_policy_that_broke_is_not_believed(whole: VllmEngine, wide_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(wide_model)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    whole.sync(model)
    with pytest.raises(RolloutError, match="not finite"):
        whole.generate(PROMPTS, Sampling(max_new_tokens=4))


def test_an_adapter_that_is_too_wide_is_refused(adapted: VllmEngine, wide_model: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(wide_model)
    with pytest.raises(RolloutError, match=r"does not take the adapter: .*16"):
        adapted.sync(get_peft_model(base, LoraConfig(r=16, target_modules="all-linear")))


# vLLM ends all engines of a process with one of them: what closes its own comes last


def test_a_four_bit_base_stays_one(wide_model: Path, policy: Policy) -> None:
    """vLLM gets the full weights that the 4-bit ones stand for, once, and the adapter at every sync."""
    from alignment.models import four_bit_config, keep_trainable_on_cpu

    settings = four_bit_config()
    settings.bnb_4bit_compute_dtype = torch.float32  # to see that nothing but rounding differs
    model = policy(3, quantization_config=settings)
    keep_trainable_on_cpu(model)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    engine = VllmEngine(str(wide_model), [STOP], adapter_rank=4, **SMALL)
    for move in (0.0, 0.05):
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if ".lora_B.default" in name:
                    weight.add_(move)
        engine.sync(model)
        completions = engine.generate(PROMPTS, Sampling(max_new_tokens=20))
        assert gap(model, PROMPTS, completions) < 1e-3
    engine.close()
    assert gap(policy(3), PROMPTS, completions) > 0.1  # the base before quantisation is another policy
    assert all(torch.equal(before[n], w) for n, w in model.named_parameters() if ".lora_B.default" not in n)
    assert any(weight.dtype == torch.uint8 for weight in before.values())


def test_the_process_is_left_as_it_was(wide_model: Path, policy: Policy) -> None:
    import numpy

    model, threads = policy(1), torch.set_num_threads
    torch.manual_seed(5)

    def draws() -> tuple[float, ...]:
        return random.random(), float(numpy.random.random()), float(torch.rand(()))

    random.seed(5), numpy.random.seed(5), torch.manual_seed(5)
    expected = draws()
    random.seed(5), numpy.random.seed(5), torch.manual_seed(5)
    engine = VllmEngine(str(wide_model), [STOP], **SMALL)
    engine.sync(model)
    engine.generate(PROMPTS, Sampling(max_new_tokens=4))
    engine.close()
    assert draws() == expected
    assert torch.set_num_threads is threads


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cache_gib": 1e-4}, r"does not fit: .*keys and values have 0.0001 GiB"),
        ({"max_model_len": 1 << 20}, "max_model_len"),
        ({"adapter_rank": 1000}, "up to rank 512, not 1000"),
        ({"model": "/nowhere/to/be/found"}, "cannot load /nowhere/to/be/found"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(wide_model: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RolloutError, match=words) as error:
        VllmEngine(**({"model": str(wide_model), "stop_token_ids": [STOP]} | SMALL | changes))
    assert "\n" not in str(error.value)


def test_bfloat16_in_a_process_that_has_computed_nothing_yet(wide_model: Path) -> None:
    """On CPUs with AMX vLLM's attention died there, of an illegal instruction."""
    code = f"""
from rollout import Sampling
from rollout.vllm_engine import VllmEngine
engine = VllmEngine({str(wide_model)!r}, [1], dtype="bfloat16", max_model_len=128, cache_gib=0.1)
assert len(engine.generate([[5, 6, 7]], Sampling(max_new_tokens=4))[0].token_ids) > 0
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
