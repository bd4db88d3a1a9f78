"""Packing: the same loss and gradient as row by row, no example lost, and what it does not go with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignment.config import load_config
from alignment.errors import ConfigError
from alignment.sft import SFTConfig, plan, train_sft
from tests.alignment.sft_runs import sft_config, write

ROWS = [{"prompt": f"guest {i}?", "completion": "fish near " * (1 + 3 * i % 7)} for i in range(33)]


def first_step(run: Path) -> tuple[float, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    row = next(row for row in rows if "grad_norm" in row)
    return row["loss"], row["grad_norm"]


@pytest.mark.parametrize("microbatch", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_examples_do_not_see_each_other(microbatch: int, tiny_model: Path, tmp_path: Path) -> None:
    """One step on all 30 examples, one a row, and packed."""
    keys: dict[str, Any] = {"data": write(tmp_path / "data.jsonl", ROWS), "held_out": 3, "general": None}
    plain = train_sft(sft_config(tiny_model, tmp_path / "rows", batch_size=30, microbatch=5, **keys))
    config = sft_config(tiny_model, tmp_path / "packed", packing=True, max_length=160, **keys)
    rows = int(str(plan(config)["packed"]).split()[1])
    assert 2 <= rows <= 8
    size = rows + rows % microbatch
    config = config.model_copy(update={"batch_size": size, "microbatch": microbatch})
    packed = train_sft(config)
    assert (plain["steps"], packed["steps"]) == (1, 1)
    assert (plain["examples"], packed["examples"]) == (30, 30)
    assert packed["tokens"] == plain["tokens"]
    assert first_step(tmp_path / "packed") == pytest.approx(first_step(tmp_path / "rows"), rel=1e-4)
    assert packed["held_out_loss"] == pytest.approx(plain["held_out_loss"], rel=1e-5)


@pytest.mark.slow
def test_a_packed_mixture_runs_for_its_epochs(tiny_model: Path, tmp_path: Path) -> None:
    data = {name: write(tmp_path / f"{name}.jsonl", ROWS[:n]) for name, n in (("a", 33), ("b", 12))}
    config = sft_config(tiny_model, tmp_path / "run", data=data, packing=True, epochs=3, batch_size=2)
    planned = plan(config)
    figures = train_sft(config)
    rows = int(str(planned["packed"]).split()[1])
    assert figures["steps"] == planned["optimizer steps"] == round(rows / 2)
    assert figures["tokens"] == pytest.approx(planned["tokens"], rel=0.15)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["order=length"], "drop packing, or order and stages"),
        (["tuning.method=prompt"], "which packing cannot"),
    ],
)
def test_what_cannot_be_packed(keys: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(SFTConfig, None, ["run=x", "model.path=y", "data=z", "packing=true", *keys])
