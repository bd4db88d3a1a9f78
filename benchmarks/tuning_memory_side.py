"""The measured side of benchmarks.tuning_memory: two training steps in a fresh process, and their peak of memory.

`python -m benchmarks.tuning_memory_side CONFIG_JSON METHOD ROWS TOKENS` prints bytes beyond what the libraries hold.
"""

from __future__ import annotations

import copy
import gc
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alignment.tuning.apply import apply_tuning
from alignment.tuning.config import TuningConfig


def main(config: Any, method: str, rows: int, tokens: int) -> int:
    small = copy.deepcopy(config)
    small.num_hidden_layers, small.layer_types = 1, (getattr(config, "layer_types", None) or [None])[:1]
    train(small, method, 1, 8)  # so that libraries have allocated what they keep
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    train(config, method, rows, tokens)
    return resident("VmHWM") - before


def train(config: Any, method: str, rows: int, tokens: int) -> None:
    model = AutoModelForCausalLM.from_config(config)
    model = apply_tuning(model, TuningConfig(method=method), "CAUSAL_LM").train()
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad])
    ids = torch.randint(0, config.vocab_size, (rows, tokens))
    for _ in range(2):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def resident(kind: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(kind))


if __name__ == "__main__":
    path, method, rows, tokens = sys.argv[1:]
    print(main(AutoConfig.from_pretrained(path), method, int(rows), int(tokens)))
