"""PPO on real text: a small model learns to describe restaurants (E2E), and PPO teaches it to tell every fact.

People who wrote the references left facts out, so a model that learns from them does too. A scripted annotator, who
looks at the facts only (`alignment.demo.e2e`), prefers one of two sampled answers; a reward model learns from these
pairs, and PPO from the reward model. Held-out meaning representations are then answered at temperature 0.7:

    right       no fact missing, contradicted or made up: what the annotator looks at
    wellformed  whole sentences, no run of four words twice
    chrf        overlap with what people wrote for the same facts

Neither annotator nor reward model is told of the last two. One base serves all seeds; answers, pairs, reward model
and PPO are made anew for each. Needs E2E in ALIGN_SHARED/data (default ../shared/data).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

from alignment.demo import e2e
from benchmarks.chrf import chrf
from benchmarks.record import Figure, run

Message = dict[str, str]
TEMPERATURE = 0.7
ANSWERS, WORSE = 8, 4  # of the base to a prompt; of those, compared with the best one at most
SECOND = ("wellformed", "chrf")  # the metrics that the reward never sees


@dataclass(frozen=True)
class Work:
    """How much is done."""

    seeds: int = 3
    base_steps: int = 800
    prompts: int = 3000
    iterations: int = 40
    every: int = 10
    held_out: int = 300


QUICK = Work(seeds=1, base_steps=60, prompts=200, iterations=4, every=2, held_out=20)


def e2e_file() -> Path:
    root = Path(__file__).resolve().parent.parent
    file = Path(os.environ.get("ALIGN_SHARED", root.parent / "shared")) / "data" / "e2e_train.jsonl.gz"
    if not file.exists():
        sys.exit(f"no E2E data at {file}: set ALIGN_SHARED to the folder that holds data/")
    return file


@cache
def written_by_people() -> dict[str, list[str]]:
    """The references of each prompt."""
    found: dict[str, list[str]] = {}
    for row in e2e.read(e2e_file()):
        found.setdefault(e2e.to_prompt(row["mr"])[-1]["content"], []).append(row["ref"])
    return found


def check(prompt: list[Message], answer: str) -> dict[str, float]:
    """The figures of a held-out answer."""
    found = e2e.check(prompt, answer)
    facts = wrong_facts(prompt, answer)
    return {
        "right": float(facts == 0),
        "coverage": found["coverage"],
        "quality": 0.0 - facts,
        "wellformed": found["wellformed"],
        "chrf": chrf(answer, written_by_people()[prompt[-1]["content"]]),
    }


def wrong_facts(prompt: list[Message], answer: str) -> float:
    """How many facts are missing, contradicted or made up; the task's oracle counts bad form as half a fault more."""
    found = e2e.check(prompt, answer)
    return -found["quality"] - 0.5 * (1 - found["wellformed"])


def preferred(prompt: list[Message], answers: Iterable[str], chance: random.Random) -> list[dict[str, Any]]:
    """A scripted annotator on answers to a prompt: the best against up to WORSE that have more wrong facts."""
    wrong = {text: wrong_facts(prompt, text) for text in answers if text.strip()}
    best = min(wrong, key=lambda text: wrong[text], default="")
    worse = [text for text, count in wrong.items() if count > wrong[best]]
    return [pair(prompt, best, text) for text in chance.sample(worse, min(WORSE, len(worse)))]


def pair(prompt: list[Message], chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def write(file: Path, rows: Iterable[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def train_base(folder: Path, work: Work) -> dict[str, Any]:
    """A new model of about a million weights learns from the references of the training prompts."""
    from alignment.scratch import ScratchConfig
    from alignment.sft import SFTConfig, train_sft

    rows = e2e.E2ETask(e2e_file()).references(1_000_000, seed=0)
    shape = ScratchConfig(
        hidden_size=128, layers=4, heads=4, intermediate_size=384, vocab_size=1200, max_length=160
    )
    config = SFTConfig(
        run=str(folder / "base"),
        scratch=shape,
        data=write(folder / "references.jsonl", rows),
        max_steps=work.base_steps,
        batch_size=32,
        microbatch=32,
        learning_rate=3e-3,
        max_length=160,
    )
    return train_sft(config)


def collect_pairs(folder: Path, work: Work, seed: int) -> int:
    """The base answers training prompts several times each, and the scripted annotator says which are better."""
    from alignment.rollouts import RolloutConfig, collect_rollouts

    prompts = e2e.E2ETask(e2e_file()).prompts(work.prompts, seed, "train")
    config = RolloutConfig(
        run=str(folder / f"answers{seed}"),
        policy={"path": str(folder / "base")},
        prompts=write(folder / f"prompts{seed}.jsonl", ({"prompt": prompt} for prompt in prompts)),
        store=None,
        completions=ANSWERS,
        sampling={"max_new_tokens": 64},
        batch_size=128,
        seed=seed,
    )
    collect_rollouts(config)
    chance = random.Random(seed)
    lines = (folder / f"answers{seed}" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    answered = map(json.loads, lines)
    pairs = [
        found
        for row in answered
        for found in preferred(row["prompt"], [answer["text"] for answer in row["answers"]], chance)
    ]
    write(folder / f"pairs{seed}.jsonl", pairs)
    return len(pairs)


def train_reward(folder: Path, seed: int) -> dict[str, Any]:
    from alignment.rewards import RewardRunConfig, train_reward_model

    config = RewardRunConfig(
        run=str(folder / f"reward{seed}"),
        base={"path": str(folder / "base")},
        data=str(folder / f"pairs{seed}.jsonl"),
        tuning={"method": "full"},
        epochs=2,
        learning_rate=1e-3,
        batch_size=32,
        microbatch=32,
        max_length=160,
        seed=seed,
    )
    return train_reward_model(config)


def learn(folder: Path, work: Work, seed: int) -> dict[str, str]:
    """PPO from the reward model. Returns where the policies of the curve lie, by iteration."""
    from alignment.ppo.config import PPOConfig
    from alignment.ppo.run import train_ppo

    config = PPOConfig(
        run=str(folder / f"ppo{seed}"),
        policy={"path": str(folder / "base"), "dtype": "float32"},  # the same on every processor
        reward=str(folder / f"reward{seed}"),
        prompts=str(folder / f"prompts{seed}.jsonl"),
        sampling={"max_new_tokens": 64, "temperature": TEMPERATURE},
        episodes=128,
        epochs=2,
        microbatch=32,
        learning_rate=1e-3,
        lam=1.0,
        critic={"learning_rate": 1e-3},
        kl={"coef": 0.12},
        seed=seed,
    )
    policies = {"base": str(folder / "base")}
    for iterations in range(work.every, work.iterations + 1, work.every):
        stage = config.model_copy(update={"iterations": iterations, "save_every": work.every})
        train_ppo(stage, resume=True)
        policies[str(iterations)] = str(folder / f"ppo{seed}_{iterations}")
        shutil.copytree(folder / f"ppo{seed}" / "model", policies[str(iterations)])
    return policies


def compare(folder: Path, work: Work, seed: int, policies: dict[str, str]) -> dict[str, Any]:
    """Every policy of the curve answers the held-out prompts."""
    from alignment.evaluation.config import EvalConfig
    from alignment.evaluation.run import evaluate

    prompts = e2e.E2ETask(e2e_file()).prompts(work.held_out, 0, "test")
    config = EvalConfig(
        run=str(folder / f"eval{seed}"),
        policies=policies,
        prompts=write(folder / "test.jsonl", ({"prompt": prompt} for prompt in prompts)),
        samples=2,
        sampling={"max_new_tokens": 64, "temperature": TEMPERATURE},
        check="benchmarks.ppo_e2e:check",
        reward=str(folder / f"reward{seed}"),
        batch_size=128,
        seed=seed,
    )
    return evaluate(config)


def measure(quick: bool) -> dict[str, Figure]:
    work = QUICK if quick else Work()
    e2e_file()
    with TemporaryDirectory() as name:
        return measure_in(Path(name), work)


def measure_in(folder: Path, work: Work) -> dict[str, Figure]:
    import torch

    torch.set_num_threads(1)
    started = process_time()
    base = train_base(folder, work)
    figures: dict[str, Figure] = {
        "parameters": base["parameters"],
        "base.held_out_loss": base["held_out_loss"],
        "base.cpu_minutes": (process_time() - started) / 60,
    }
    for seed in range(work.seeds):
        found = {f"seed{seed}.{key}": value for key, value in one_seed(folder, work, seed).items()}
        print(json.dumps(found), file=sys.stderr, flush=True)
        figures |= found
    for metric in ("right", *SECOND, "reward", "kl", "length"):
        before, after = (
            [float(figures[f"seed{seed}.{metric}.{when}"] or 0) for seed in range(work.seeds)]
            for when in (0, work.iterations)
        )
        figures |= {f"{metric}.before": mean(before), f"{metric}.after": mean(after)}
        figures[f"{metric}.least_gain"] = min(b - a for a, b in zip(before, after, strict=True))
    return figures | samples(folder, work)


def one_seed(folder: Path, work: Work, seed: int) -> dict[str, Figure]:
    """Pairs, reward model, PPO and the curve: METRIC.ITERATION on held-out prompts, shares in percent."""
    started = process_time()
    pairs = collect_pairs(folder, work, seed)
    reward = train_reward(folder, seed)
    policies = learn(folder, work, seed)
    seconds = process_time() - started
    found = compare(folder, work, seed, policies)
    scale = {"right": 100.0, "coverage": 100.0, "wellformed": 100.0}
    curve = {
        f"{metric}.{0 if name == 'base' else name}": scale.get(metric, 1.0) * found[f"{name}.{metric}"]
        for metric in ("right", "coverage", *SECOND, "reward", "kl", "length")
        for name in policies
    }
    return {
        "pairs": pairs,
        "reward.accuracy": reward["accuracy"],
        **curve,
        "cpu_minutes": seconds / 60,
    }


def samples(folder: Path, work: Work, shown: int = 6) -> dict[str, Figure]:
    """The first answers of seed 0 to some held-out prompts: the base's and the tuned policy's."""
    lines = (folder / "eval0" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    figures: dict[str, Figure] = {}
    for name, policy in (("before", "base"), ("after", str(work.iterations))):
        first = [row for row in rows if row["policy"] == policy][::2][:shown]
        for number, row in enumerate(first, 1):
            facts = row["prompt"][-1]["content"].removeprefix(e2e.ASK).strip()
            figures |= {f"sample{number}.facts": facts, f"sample{number}.{name}": row["answer"]}
    return figures


if __name__ == "__main__":
    run("ppo_e2e", "PPO on real text: E2E, a learned reward", measure)
