"""The small run that tests of `align ppo` start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

LENGTH = "python:tests.reward.scoring_rules:length"  # a rule that likes long answers


def write_prompts(path: Path, count: int = 10, words: str = "say") -> Path:
    """`count` prompts: words 0, words 1, ..."""
    path.write_text("".join(json.dumps({"prompt": f"{words} {i}"}) + "\n" for i in range(count)))
    return path


def write_ppo_config(folder: Path, model: Path, *, words: str = "say", **changes: Any) -> Path:
    """A config file in `folder` for a run of eight answers an iteration on `model`; `changes` are keys at its top."""
    values = {
        "run": str(folder / "run"),
        "policy": {"path": str(model), "dtype": "float32"},
        "reward": LENGTH,
        "prompts": str(write_prompts(folder / "prompts.jsonl", words=words)),
        "tuning": {"rank": 4},
        "sampling": {"max_new_tokens": 8},
        "episodes": 8,
        "epochs": 2,
        "minibatches": 2,
    }
    path = folder / "ppo.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path
