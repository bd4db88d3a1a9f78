"""When layers get fused kernels; that these compute the same is held on GPUs (`tests/gpu`)."""

import sys

import torch

from alignment.ppo.build import build_actor_critic, place
from alignment.ppo.config import PPOConfig
from alignment.ppo.kernels import fuse_layers
from tests.families import random_model


def test_on_a_cpu_layers_stay_as_they_are(tiny_model):
    values = {"run": "unused", "policy": {"path": str(tiny_model)}, "reward": "unused", "prompts": "unused"}
    config = PPOConfig.model_validate(values)
    models, _ = build_actor_critic(config)
    place(models, config, torch.device("cpu"))
    assert not any("forward" in vars(layer.mlp) for layer in models.language_model.model.layers)


def test_where_the_kernels_are_missing_it_says_what_to_install(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    fuse_layers([random_model("gemma")])
    assert capfd.readouterr().err == "", "a family that is not fused needs nothing"
    fuse_layers([random_model("llama")])
    assert "pip install 'align[gpu]'" in capfd.readouterr().err
