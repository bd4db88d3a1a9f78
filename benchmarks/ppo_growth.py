"""How PPO grows: time a token from short answers to long and from few rows to many, and memory over many iterations.

Random models without a stop token, so that every answer has the length asked for. CPU seconds of the process. The
cost of a token is measured on layers of a real model's shape: attention's share, which grows with the length whatever
one does, is as large as the rest where the width is a few hundred.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.record import Figure, run

LENGTHS, ROWS = (64, 256, 1024), (32, 128, 512)
# two layers of Qwen2.5-0.5B's shape
WIDE = {"hidden_size": 896, "layers": 2, "heads": 14, "kv_heads": 2, "intermediate_size": 4864}


class Constant:
    """A scorer that likes every answer by another constant: the cost of scoring is not what is measured."""

    def score(self, conversations: Sequence[Any]) -> list[float]:
        return [float(index % 3) for index in range(len(conversations))]


def trainer_for(folder: Path, *, episodes: int, length: int, **more: Any) -> Any:
    import torch

    from alignment.models import load_tokenizer
    from alignment.ppo.build import build_actor_critic, place
    from alignment.ppo.config import PPOConfig
    from alignment.ppo.trainer import PPOTrainer
    from alignment.prompts import EncodedPrompt
    from rollout.transformers_engine import TransformersEngine

    values = {
        "run": "none",
        "policy": {"path": str(folder), "dtype": "float32"},
        "reward": "none",
        "prompts": "none",
        "sampling": {"max_new_tokens": length},
        "episodes": episodes,
        "epochs": 1,
        "minibatches": 4,
        "microbatch": 8,
        "truncation": {"penalty": 0},
    }
    config = PPOConfig.model_validate(values | more)
    models, _ = build_actor_critic(config)
    place(models, config, torch.device("cpu"))
    tokenizer = load_tokenizer(str(folder))
    engine = TransformersEngine(models.policy(), (), tokenizer.pad_token_id, max_batch=64)
    prompts = [EncodedPrompt(i, [{"role": "user", "content": ""}], [5, 6, 7, 8 + i % 50]) for i in range(64)]
    return PPOTrainer(config, models, engine, Constant(), prompts, tokenizer)


def seconds_a_token(folder: Path, episodes: int, length: int, steps: int) -> float:
    trainer = trainer_for(folder, episodes=episodes, length=length)
    best = float("inf")
    for _ in range(steps):
        started = time.process_time()
        trainer.step()
        best = min(best, time.process_time() - started)
    return best / (episodes * length)


def memory_growth(folder: Path, iterations: int) -> float:
    """Resident memory after `iterations` over that after the first tenth, less 1."""
    trainer = trainer_for(folder, episodes=8, length=16)
    early = 0.0
    for iteration in range(1, iterations + 1):
        trainer.step()
        if iteration == iterations // 10:
            early = resident()
    return resident() / early - 1


def resident() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])


def measure(quick: bool) -> dict[str, Figure]:
    import torch

    from alignment.heap import hold_heap
    from alignment.scratch import ScratchConfig, new_model

    torch.set_num_threads(1)
    hold_heap()  # as `align ppo` does
    lengths, rows = (LENGTHS[:2], ROWS[:2]) if quick else (LENGTHS, ROWS)
    figures: dict[str, Figure] = {}
    with TemporaryDirectory() as name:
        small, wide = Path(name) / "small", Path(name) / "wide"
        words = ["a few words to make a tokenizer from"] * 8
        new_model(ScratchConfig(), words, small)
        new_model(ScratchConfig(max_length=2048, **WIDE), words, wide)
        # first, while the process is no larger than these iterations make it
        figures["memory_growth"] = memory_growth(small, 50 if quick else 500)
        for length in lengths:
            figures[f"us_a_token.length_{length}"] = 1e6 * seconds_a_token(wide, 32, length, 2)
        for episodes in rows:
            figures[f"us_a_token.rows_{episodes}"] = 1e6 * seconds_a_token(small, episodes, 64, 2)
    for kind, sizes in (("length", lengths), ("rows", rows)):
        costs = [float(figures[f"us_a_token.{kind}_{size}"] or 0) for size in sizes]
        figures[f"{kind}_ratio"] = costs[-1] / costs[0]
    return figures


if __name__ == "__main__":
    run("ppo_growth", "PPO: cost a token, and memory over iterations", measure)
