"""One side of `benchmarks.ppo_vs_trl`: our trainer on the peers' synthetic task, as JSON on standard output.

`python -m benchmarks.ppo_side MODEL PEERS STEPS [key=value ...]`: MODEL and its task come from `make_tiny.py` in the
folder PEERS; the overrides are those of `align ppo`. CPU seconds are the process's own, all threads together.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any


class GoodTokens:
    """The task's reward, a rule: scale times the share of an answer's tokens that are in every fourth cluster."""

    def __init__(self, vocabulary: int, clusters: int, first: int, scale: float) -> None:
        self.width, self.first, self.scale = (vocabulary - first) // clusters, first, scale

    def score(self, conversations: Sequence[Sequence[dict[str, str]]]) -> list[float]:
        scores = []
        for conversation in conversations:
            ids = [int(word[1:]) for word in conversation[-1]["content"].split() if word[1:].isdigit()]
            good = sum(i >= self.first and (i - self.first) // self.width % 4 == 0 for i in ids)
            scores.append(self.scale * good / max(1, len(ids)))
        return scores


def run(model: str, peers: str, steps: int, overrides: Sequence[str]) -> dict[str, Any]:
    sys.path.insert(0, peers)
    import make_tiny
    import torch

    from alignment.config import load_config
    from alignment.heap import hold_heap
    from alignment.models import load_tokenizer
    from alignment.ppo.build import build_actor_critic, place
    from alignment.ppo.config import PPOConfig
    from alignment.ppo.trainer import PPOTrainer
    from alignment.prompts import EncodedPrompt
    from alignment.rollouts import embedded_engine

    torch.set_num_threads(1)
    hold_heap()  # as `align ppo` does
    with open(f"{model}/task.json", encoding="utf-8") as file:
        task = json.load(file)
    same_work = [
        *(
            f"policy.path={model}",
            "run=none",
            "reward=none",
            "prompts=none",
            "tuning.rank=16",
            "tuning.alpha=32",
        ),
        *(
            "learning_rate=3e-4",
            "critic.learning_rate=3e-4",
            "kl.coef=0.05",
            "lam=1.0",
            "truncation.penalty=0",
        ),
    ]
    config = load_config(PPOConfig, None, [*same_work, *overrides])
    tokenizer = load_tokenizer(model)
    models, _ = build_actor_critic(config)
    place(models, config, torch.device("cpu"))
    ids = make_tiny.prompts(4096, task["vocab"], task["clusters"], 12, 32, 7)
    prompts = [EncodedPrompt(row, [{"role": "user", "content": ""}], p) for row, p in enumerate(ids, 1)]
    scorer = GoodTokens(task["vocab"], task["clusters"], make_tiny.FIRST, make_tiny.SCALE)
    engine = embedded_engine(
        models.policy(),
        tokenizer,
        seed=config.seed,
        max_batch=config.episodes,
        value_head=models.value_head if config.asks_engine_for_values else None,
    )
    trainer = PPOTrainer(config, models, engine, scorer, prompts, tokenizer)
    trainer.clock = time.process_time
    rows: list[dict[str, Any]] = []
    for _ in range(steps):
        started = time.process_time()
        metrics = trainer.step()
        cpu = time.process_time() - started
        rows.append({"cpu": cpu, "phases": dict(trainer.seconds), **metrics})
    # the engine is measured in the first two iterations where it is to be trusted
    measured = rows[2 if config.old_logprobs == "engine" else 1 :] or rows
    return {
        "cpu": sum(row["cpu"] for row in measured) / len(measured),
        "phases": {k: sum(r["phases"][k] for r in measured) / len(measured) for k in rows[0]["phases"]},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "scores": [row["score_mean"] for row in rows],
        "kl": [row["kl"] for row in rows],
    }


if __name__ == "__main__":
    model, peers, steps, *overrides = sys.argv[1:]
    print(json.dumps(run(model, peers, int(steps), overrides)))
