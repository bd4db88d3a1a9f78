"""What tests of SFT share: rows in files, a config for the tiny model, and the batches that a run really trains on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alignment.sft import SFTConfig


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def sft_config(model: Path, run: Path, **keys: Any) -> SFTConfig:
    defaults: dict[str, Any] = {
        "run": str(run),
        "model": {"path": str(model)},
        "tuning": {"rank": 2},
        "batch_size": 4,
        "microbatch": 2,
        "max_length": 200,
        "learning_rate": 1e-2,
    }
    return SFTConfig.model_validate(defaults | keys)


@contextmanager
def batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[list[int]]]]:
    """The token ids of every microbatch, without padding, as the trainer is given them."""
    from trl import SFTTrainer

    seen: list[list[list[int]]] = []
    original = SFTTrainer.training_step

    def watched(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        said = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        seen.append([ids[mask.bool()].tolist() for ids, mask in said])
        return original(self, model, inputs, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(SFTTrainer, "training_step", watched)
        yield seen
