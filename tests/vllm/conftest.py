"""What tests on the real vLLM share: a model that its attention takes, and settings for a small machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # compiling a tiny model takes longer than all it does


@pytest.fixture(scope="session")
def wide_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with the tiny model's tokenizer and heads of 32, the least that vLLM's attention on a CPU takes.

    Its distributions are far from uniform, so that a wrong position or weight shows. Do not write in it.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide") / "model"
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "head_dim": 32, "intermediate_size": 128, "initializer_range": 0.2}
    LlamaForCausalLM(AutoConfig.from_pretrained(tiny_model, **shape)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder
