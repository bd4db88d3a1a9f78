"""Configs: what is wrong is named, with its place and the nearest right thing, before anything is loaded."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.config import apply_override, load_config, to_yaml
from alignment.errors import ConfigError
from alignment.ppo.config import PPOConfig

NEEDED = ["run=r", "policy.path=p", "reward=w", "prompts=x"]


def fault(*overrides, path=None):
    with pytest.raises(ConfigError) as caught:
        load_config(PPOConfig, path, [*NEEDED, *overrides])
    return str(caught.value)


def test_overrides_reach_into_sections():
    config = load_config(PPOConfig, None, [*NEEDED, "kl.coef=1e-3", "dual_clip=3", "whiten_advantages=false"])
    assert config.kl.coef == 0.001
    assert config.dual_clip == 3.0
    assert config.whiten_advantages is False


def test_a_file_is_read_and_overridden(tmp_path):
    path = tmp_path / "ppo.yaml"
    path.write_text("run: r\npolicy: {path: p}\nreward: w\nprompts: x\nlearning_rate: 1e-6\nepochs: 2\n")
    config = load_config(PPOConfig, path, ["epochs=3"])
    assert (config.learning_rate, config.epochs) == (1e-6, 3)
    path.write_text(to_yaml(config))
    assert load_config(PPOConfig, path) == config


@pytest.mark.parametrize(
    ("override", "nearest"),
    [("lerning_rate=1", "learning_rate"), ("kl.coeff=1", "kl.coef"), ("samplng.top_k=0", "sampling")],
)
def test_an_unknown_key_names_the_nearest(override, nearest):
    line = fault(override)
    assert "unknown key" in line
    assert f"did you mean '{nearest}" in line


def test_wrong_values_say_what_was_expected():
    assert fault("iterations=many").startswith("iterations: ")
    assert "'many'" in fault("iterations=many")
    assert "greater than or equal to 1" in fault("iterations=0")
    assert "'reward' or 'zero'" in fault("critic.init=random")
    with pytest.raises(ConfigError, match="key 'reward' is required"):
        load_config(PPOConfig, None, [o for o in NEEDED if not o.startswith("reward")])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("engine=vlm", "engine: Input should be .*; did you mean 'vllm'"),
        ("engine=vllm_server", "did you mean 'vllm-server'"),
        ("engine=openai", "PPO learns from token ids .*: use vllm-server"),
        ("vllm.cache_gib=1", "`vllm` is for engine=vllm and engine=vllm-server"),
        ("tuning.method=loro", "did you mean 'lora'"),
    ],
)
def test_a_misspelt_choice_names_the_nearest(override, words):
    assert re.search(words, fault(override))


def test_split_weights_are_for_the_embedded_engine():
    assert "set shard=false, or engine=transformers" in fault("engine=vllm", "shard=true")


def test_every_fault_is_reported_at_once():
    assert len(fault("iterations=0", "nonsense=1").splitlines()) == 2


@pytest.mark.parametrize("override", ["iterations", "=3", "run.sub=3", "kl={"])
def test_malformed_overrides(override):
    assert "override" in fault(override)


def test_files_that_are_not_there_or_not_yaml(tmp_path):
    (tmp_path / "ppo.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match=r"did you mean .*ppo\.yaml"):
        load_config(PPOConfig, tmp_path / "pp.yaml")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(PPOConfig, tmp_path / "ppo.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(PPOConfig, tmp_path)
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="keys and values"):
        load_config(PPOConfig, tmp_path / "list.yaml")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_survives_an_override(value):
    values = {}
    apply_override(values, f"a.b={value!r}")
    assert values["a"]["b"] == value


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "configs").rglob("ppo*.yaml")), ids=str)
def test_the_configs_that_come_along_are_valid(path):
    assert load_config(PPOConfig, path).sampling.top_p == 1
