"""The probe: now and then the policy answers held-out prompts, for a judge that it is not trained to please.

The reward is a proxy. Optimised far enough it goes on rising while what it stands for falls (Gao et al. 2023); the
probe's gold score shows where that begins, and the best policy by it is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from alignment.checkpoints import State, random_state, restore_random_state
from alignment.console import note
from alignment.models import context_length
from alignment.ppo.config import PPOConfig, ProbeConfig
from alignment.ppo.processes import from_main
from alignment.ppo.saving import write_policy
from alignment.prompts import EncodedPrompt, encode_prompts, load_prompts
from alignment.runs import RunFolder
from alignment.scorers import load_scorer
from reward.scorer import Scorer
from rollout.types import RolloutEngine

if TYPE_CHECKING:
    from alignment.ppo.trainer import PPOTrainer

ROWS = "probe.jsonl"
BEST = "best"  # a folder of the run, beside model/
RECORD = "probe.json"  # in it: the row of the probe that chose it


class Probe:
    """Measures a trainer's policy; leaves the trainer and every generator of random numbers as they were."""

    def __init__(
        self, config: ProbeConfig, prompts: Sequence[EncodedPrompt], gold: Scorer, start: State
    ) -> None:
        """start: the state of a fresh engine. Every probe draws from it: policies differ, the luck does not."""
        self.config = config
        self.prompts = list(prompts)
        self.gold = gold
        self.start = start

    def is_due(self, iteration: int, last: int) -> bool:
        return iteration % self.config.every == 0 or iteration == last

    def measure(self, trainer: PPOTrainer) -> dict[str, Any]:
        """A row of probe.jsonl: gold score and reward of the same answers, and their KL from the reference."""
        sampling = trainer.config.sampling
        if self.config.greedy:
            sampling = sampling.model_copy(update={"temperature": 0.0})
        trainer.sampler.deliver()
        with undisturbed(trainer.sampler.engine, self.start), torch.no_grad():
            rollouts = trainer.generate(self.prompts, sampling)
            gold = trainer.score(self.prompts, rollouts, self.gold).mean(1)
            proxy = trainer.score(self.prompts, rollouts).mean(1)
            found = trainer.evaluate(rollouts.sequences)
        return {
            "iteration": trainer.iteration,
            "answers": len(self.prompts),
            "gold_mean": float(gold.mean()),
            "gold_std": float(gold.std(correction=0)),
            "proxy_mean": float(proxy.mean()),
            "proxy_std": float(proxy.std(correction=0)),
            **rollouts.figures(found.logprobs, found.reference),
        }


@contextmanager
def undisturbed(engine: RolloutEngine, start: State) -> Iterator[None]:
    """Inside the engine draws as from `start`; after it, it and the global generators are as they were before."""
    before, random = engine.state_dict(), random_state()
    engine.load_state_dict(start | {"version": before["version"]})
    try:
        yield
    finally:
        engine.load_state_dict(before)
        restore_random_state(random)


def build_probe(config: PPOConfig, trainer: PPOTrainer, run: RunFolder) -> Probe | None:
    """The probe of a run, if it has one, from a trainer that has not drawn anything yet."""
    if config.probe is None:
        return None
    prompts = load_prompts(config.probe.prompts)
    trained = [prompt.messages for prompt in trainer.sampler.prompts.items]
    if known := sum(prompt in trained for prompt in prompts):
        note(f"PPO: {known} of {len(prompts)} prompts of the probe are trained on too: hold them out")
    context = min(context_length(trainer.models.language_model), trainer.sampler.engine.context)
    room = context - config.sampling.max_new_tokens
    encoded = encode_prompts(prompts, trainer.tokenizer, room, run.path / "rejected_probe_prompts.jsonl")
    random = random_state()
    gold = load_scorer(config.probe.gold, str(trainer.device))
    restore_random_state(random)
    return Probe(config.probe, encoded, gold, trainer.sampler.engine.state_dict())


def best_so_far(run: RunFolder) -> dict[str, Any] | None:
    """The row of the probe whose policy is kept in best/."""
    record = run.path / BEST / RECORD
    return dict(json.loads(record.read_text(encoding="utf-8"))) if record.exists() else None


def keep_best(trainer: PPOTrainer, run: RunFolder, row: Mapping[str, Any]) -> bool:
    """Keep the policy in best/ if its gold score beats the one there; whether it did."""
    best = from_main(best_so_far(run))
    if best is not None and best["gold_mean"] >= row["gold_mean"]:
        return False
    write_policy(trainer, run.path / BEST, {RECORD: json.dumps(row) + "\n"})
    return True


def in_words(row: Mapping[str, Any], is_best: bool) -> str:
    """A probe as a line for the terminal."""
    best = ", the best so far" if is_best else ""
    return (
        f"PPO: probe after iteration {row['iteration']}: gold score {row['gold_mean']:.3g}{best}; "
        f"reward {row['proxy_mean']:.3g}, KL {row['kl']:.2f} nats an answer"
    )
