"""What noisy labels cost DPO, and what soft labels give back: the demo's task, policies tuned from one base.

Pairs of the demo's notes are labelled by its oracle; 30% of them are then labelled anew by a simulated judge, who is
wrong with a chance that he knows and says: `p_chosen` is his confidence in the side that he names. `hard_clean` trains
on the oracle's labels; `hard_noisy` and `soft` on the judge's in place of those 30%, the one as sure labels, the other
with his confidence; `without` leaves his labels out, and `robust` corrects hard ones by their mean rate of error.
Held-out accuracy is the share of the oracle's pairs that the implicit reward ranks as it does; `quality` is the
oracle's mean quality of answers sampled from the policy (0 is perfect).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from alignment.cli import quiet_environment
from alignment.demo import notes
from benchmarks.record import Figure, run
from benchmarks.reward_noise import CONFIDENCE, RELABELLED, demo_pairs, hardened, relabelled, small_base

Row = dict[str, Any]
SEEDS, PAIRS, TEST_PAIRS, PROMPTS = 3, 1200, 300, 64
WAYS = ("hard_clean", "hard_noisy", "soft", "without", "robust")
TRAINING = {
    "tuning": {"rank": 8},
    "beta": 0.3,
    "learning_rate": 1e-3,
    "batch_size": 16,
    "microbatch": 16,
    "max_length": 256,
}


def labels(way: str, clean: Sequence[Row], noisy: Sequence[Row]) -> list[Row]:
    return {
        "hard_clean": lambda: list(clean),
        "soft": lambda: list(noisy),
        "without": lambda: [row for row in noisy if row["source"] != "judge"],
    }.get(way, lambda: hardened(noisy))()


def train(
    base: str, folder: Path, rows: Sequence[Row], test: Sequence[Row], way: str, seed: int
) -> dict[str, float]:
    """Held-out accuracy of a policy trained on `rows`, and the quality of its answers."""
    from datasets import Dataset
    from transformers import set_seed

    from alignment.dpo import DPOConfig, build_trainer, prepare
    from alignment.models import load_tokenizer
    from alignment.preferences import Preferences
    from alignment.runs import RunFolder
    from reward.evaluate import accuracy

    wrong = RELABELLED * (1 - mean(CONFIDENCE))
    more: dict[str, Any] = {"loss": "robust", "label_smoothing": wrong} if way == "robust" else {}
    config = DPOConfig.model_validate(
        TRAINING
        | more
        | {"run": str(folder / f"{way}-{seed}"), "policy": {"path": base}, "data": "given", "seed": seed}
    )
    set_seed(seed)
    tokenizer = load_tokenizer(base)
    run_folder = RunFolder.create(Path(config.run), config)
    pairs = Preferences(*(Dataset.from_list([dict(r) for r in some]) for some in (rows, test)), None, [])
    trainer = build_trainer(config, tokenizer, *prepare(config, pairs, tokenizer, run_folder)[:2], run_folder)
    trainer.train()
    first, second = trainer.held_out_scores(trainer.get_eval_dataloader())
    return {
        "accuracy": accuracy(first, second, [1.0] * len(first)),
        "quality": quality(trainer.model, tokenizer, seed),
    }


def quality(model: Any, tokenizer: Any, seed: int) -> float:
    """The oracle's mean quality of answers to prompts that nothing was trained on."""
    from alignment.answers import text_of
    from alignment.rollouts import embedded_engine
    from rollout.types import Sampling

    prompts = notes.prompts(PROMPTS, 0, "test")
    engine = embedded_engine(model.eval(), tokenizer, seed=seed, max_batch=PROMPTS)
    ids = [
        list(tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=False)) for p in prompts
    ]
    answers = engine.generate(ids, Sampling(max_new_tokens=80))
    return mean(
        notes.check(p, text_of(a, tokenizer))["quality"] for p, a in zip(prompts, answers, strict=True)
    )


def measure(quick: bool) -> dict[str, Figure]:
    quiet_environment()
    pairs = demo_pairs(PAIRS + TEST_PAIRS if quick else 2 * (PAIRS + TEST_PAIRS))
    for number, row in enumerate(pairs):
        row["comparison_id"] = number
    count = (200, 60) if quick else (PAIRS, TEST_PAIRS)
    clean, test = pairs[: count[0]], pairs[count[0] : sum(count)]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with TemporaryDirectory() as name:
        folder = Path(name)
        base = small_base(pairs, folder, 20 if quick else 400)
        for seed in range(1 if quick else SEEDS):
            noisy = relabelled(clean, "honest", seed)
            for way in WAYS:
                found[way].append(train(base, folder, labels(way, clean, noisy), test, way, seed))
                print(f"seed {seed}, {way}: {json.dumps(found[way][-1])}", file=sys.stderr, flush=True)
    return figures(found)


def figures(found: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Figure]:
    result: dict[str, Figure] = {"seeds": len(found["soft"])}
    for key in ("accuracy", "quality"):
        gains = [s[key] - h[key] for s, h in zip(found["soft"], found["hard_noisy"], strict=True)]
        result |= {f"{key}_gain": mean(gains), f"{key}_gain_least": min(gains)}
        result |= {f"{way}.{key}": mean(one[key] for one in several) for way, several in found.items()}
    return result | {"soft_beats_hard": bool(min(result[f"{k}_gain"] for k in ("accuracy", "quality")) > 0)}  # type: ignore[type-var]


if __name__ == "__main__":
    run("dpo_noise", "DPO from noisy labels", measure)
