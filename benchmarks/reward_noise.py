"""What noisy labels cost a reward model, and what soft labels with learned raters give back.

Three ways on the same pairs: hard labels as people gave them; the same with 30% relabelled by a simulated judge, and
nothing made of that; and with the judge's probabilities for labels, `reliability` and `length_covariate: judges`. The
judge is no language model but a formula, with the two failings that are reported of real ones: it is noisy, and it
likes long answers. Accuracy is on people's held-out labels; each seed holds out another fifth of the prompts, draws
the judge and starts the model anew.

HH-RLHF (Bai et al. 2022) is read from ALIGN_SHARED/data (default ../shared/data); the demo's task makes its own pairs,
and its oracle stands for people.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from alignment.cli import quiet_environment
from alignment.demo import notes
from alignment.demo.task import prefers
from alignment.sft import SFTConfig, train_sft
from benchmarks.record import Figure, run
from labeling.hashing import prompt_hash
from labeling.importers.formats import hh_rlhf
from reward.evaluate import agreement, bootstrap_interval, calibration_error

Row = dict[str, Any]
SEEDS = 5
RELABELLED = 0.3
SKILL, TASTE, NOISE = (
    0.5,
    1.5,
    1.0,
)  # of the judge, log-odds for: the right side, a longer one, anything at random
BASE = {
    "hidden_size": 64,
    "layers": 2,
    "heads": 4,
    "intermediate_size": 176,
    "vocab_size": 2048,
    "max_length": 256,
}
TRAINING = {
    "batch_size": 16,
    "microbatch": 16,
    "max_length": 192,
    "too_long": "truncate",
    "epochs": 2,
    "learning_rate": 2e-3,
}
WAYS: dict[str, dict[str, Any]] = {
    "hard_clean": {},
    "hard_noisy": {},
    "soft": {"reliability": True, "length_covariate": "judges"},
}


def hh_pairs(part: str = "*") -> list[Row]:
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("ALIGN_SHARED", root.parent / "shared")) / "data"
    files = sorted(folder.glob(f"hh_{part}_base_*.jsonl.gz"))
    if not files:
        sys.exit(f"no HH-RLHF files in {folder}: set ALIGN_SHARED to the folder that holds data/")
    rows = []
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            rows += [hh_rlhf(json.loads(line)) for line in lines]
    return [pair(r.prompt, r.chosen, r.rejected) for r in rows if r.chosen != r.rejected]


def demo_pairs(count: int) -> list[Row]:
    """Two notes of mixed quality for each prompt; the oracle says which is better, and ties are left out."""
    rng = random.Random("reward_noise")
    rows = []
    for prompt in notes.prompts(count, 0, "train"):
        sides = [notes.mixed_note(notes.facts_of(prompt), rng) for _ in range(2)]
        p = prefers(notes, prompt, *sides)
        if p != 0.5:
            better, worse = sides if p == 1 else sides[::-1]
            rows.append(pair(prompt, answer(better), answer(worse)))
    return rows


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def pair(prompt: Any, chosen: Any, rejected: Any) -> Row:
    sides = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    label = {"p_chosen": 1.0, "margin": 0.0, "weight": 1.0, "source": "human", "annotator": "people"}
    return sides | label | {"group": prompt_hash(prompt)}


def relabelled(rows: Sequence[Row], seed: int, *, hard: bool) -> list[Row]:
    """`rows`, of which the judge has labelled its share anew, by the same draws whether `hard` or not."""
    rng = random.Random(f"judge {seed}")
    extra = [words(row["chosen"]) - words(row["rejected"]) for row in rows]
    spread = math.sqrt(sum(e * e for e in extra) / len(extra))
    return [
        judged(row, SKILL + TASTE * e / spread + NOISE * rng.gauss(0, 1), hard)
        if rng.random() < RELABELLED
        else row
        for row, e in zip(rows, extra, strict=True)
    ]


def judged(row: Row, logit: float, hard: bool) -> Row:
    """`row` with the label of a judge to whom its chosen side is better with these log-odds."""
    label = {
        "p_chosen": 1.0 if hard else 1 / (1 + math.exp(-abs(logit))),
        "source": "judge",
        "annotator": "judge",
    }
    swapped = {"chosen": row["rejected"], "rejected": row["chosen"]} if logit < 0 else {}
    return row | swapped | label


def words(messages: Sequence[Mapping[str, str]]) -> int:
    return sum(len(message["content"].split()) for message in messages)


def folds(rows: Sequence[Row]) -> Iterator[tuple[list[Row], list[Row]]]:
    """(train, test) for each seed: every prompt is held out by one of them."""
    of = [int(row["group"][:8], 16) % SEEDS for row in rows]
    for seed in range(SEEDS):
        yield (
            [row for row, fold in zip(rows, of, strict=True) if fold != seed],
            [row for row, fold in zip(rows, of, strict=True) if fold == seed],
        )


def small_base(rows: Sequence[Row], folder: Path, steps: int) -> str:
    """A small language model that has read both sides of the pairs, as an SFT run from nothing."""
    data = folder / "texts.jsonl"
    texts = [
        {"prompt": row["prompt"], "completion": row[side]} for row in rows for side in ("chosen", "rejected")
    ]
    data.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    config = SFTConfig.model_validate(
        {"run": str(folder / "base"), "scratch": BASE, "data": str(data), "max_steps": steps, "batch_size": 16,
         "microbatch": 16, "learning_rate": 2e-3, "max_length": 128}
    )  # fmt: skip
    train_sft(config)
    return str(folder / "base" / "model")


def gaps(
    base: str, train: Sequence[Row], test: Sequence[Row], seed: int, keys: Mapping[str, Any]
) -> tuple[np.ndarray, list[str]]:
    """Scores of the chosen less the rejected sides of `test` by a reward model trained on `train`; and their groups."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, set_seed

    from reward.config import RewardConfig
    from reward.learned import score_ids
    from reward.model import from_base
    from reward.pairs import tokenize_pairs, with_mean_weight_one
    from reward.train import fit

    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = from_base(base, tokenizer, dtype=torch.float32, seed=seed)
    config = RewardConfig.model_validate(TRAINING | dict(keys) | {"seed": seed})

    def tokens(rows: Sequence[Row], split: str) -> Dataset:
        found = Dataset.from_list([dict(row) for row in rows])
        return tokenize_pairs(
            found, tokenizer, config.max_length, split=split, reject=lambda _: None, too_long="truncate"
        )

    learned = fit(config, model, tokenizer, with_mean_weight_one(tokens(train, "train")))
    held_out = tokens(test, "test")
    ids = [*held_out["chosen_ids"], *held_out["rejected_ids"]]
    scores = np.array(score_ids(model, ids, pad_token_id=tokenizer.pad_token_id, batch_tokens=8192))
    print(f"  learned of the raters: {learned.figures()}", file=sys.stderr, flush=True)
    return np.subtract(*np.split(scores, 2)), list(held_out["group"])


def compare(name: str, parts: Mapping[str, Sequence[Row]], base_steps: int, seeds: int) -> dict[str, Figure]:
    """The figures of a task; of several parts each has its own reward models, on one base, and its own figures too."""
    found: dict[str, Found] = {}
    with TemporaryDirectory() as folder:
        base = small_base([row for part in parts.values() for row in part], Path(folder), base_steps)
        for part, rows in parts.items():
            found[part] = Found()
            for seed, (train, test) in zip(range(seeds), folds(rows), strict=False):
                examine(found[part], f"{name} {part}", base, train, test, seed)
    result = {f"{name}.{key}": value for key, value in figures(Found.together(found.values())).items()}
    if len(found) > 1:
        for part, some in found.items():
            result |= {f"{name}.{part}.{key}": value for key, value in figures(some).items()}
    return result


@dataclass
class Found:
    """The gaps of held-out pairs by each way, and the pairs' groups."""

    gaps: dict[str, list[np.ndarray]] = field(default_factory=lambda: {way: [] for way in WAYS})
    groups: list[str] = field(default_factory=list)

    @classmethod
    def together(cls, several: Iterable[Found]) -> Found:
        whole = cls()
        for one in several:
            whole.groups += one.groups
            for way, found in one.gaps.items():
                whole.gaps[way] += found
        return whole


def examine(found: Found, name: str, base: str, train: Sequence[Row], test: Sequence[Row], seed: int) -> None:
    """Train on each way's labels, and add what the three say of `test` to `found`."""
    labels = {
        "hard_clean": train,
        "hard_noisy": relabelled(train, seed, hard=True),
        "soft": relabelled(train, seed, hard=False),
    }
    for way, keys in WAYS.items():
        gap, groups = gaps(base, labels[way], test, seed, keys)
        found.gaps[way].append(gap)
        told = f"{name}, seed {seed}, {way}: accuracy {agreement(gap, 0).mean():.3f} on {len(gap)} pairs"
        print(told, file=sys.stderr, flush=True)
    found.groups += groups


def figures(found: Found) -> dict[str, Figure]:
    """Accuracy and calibration error of each way over all held-out pairs, and the interval of what soft labels gain."""
    gap = {way: np.concatenate(several) for way, several in found.gaps.items()}
    right = {way: agreement(values, 0) for way, values in gap.items()}
    low, high = bootstrap_interval(right["soft"] - right["hard_noisy"], found.groups)
    return {
        **{f"{way}_accuracy": float(values.mean()) for way, values in right.items()},
        **{
            f"{way}_ece": calibration_error(values, 0 * values, 0 * values + 1) for way, values in gap.items()
        },
        "difference": float((right["soft"] - right["hard_noisy"]).mean()),
        "difference_low": low,
        "difference_high": high,
        "pairs": len(found.groups),
    }


def tasks() -> Iterator[tuple[str, dict[str, list[Row]]]]:
    """HH's two halves ask for opposite things (people like the short answer in one, the long in the other), and a model
    this small cannot tell which is asked: it is trained on each."""
    yield "hh", {part: hh_pairs(part) for part in ("harmless", "helpful")}
    yield "demo", {"notes": demo_pairs(1500)}


def measure(quick: bool) -> dict[str, Figure]:
    quiet_environment()
    result: dict[str, Figure] = {"seeds": 1 if quick else SEEDS}
    for name, parts in tasks():
        some = {part: rows[:: 10 if quick else 1] for part, rows in parts.items()}
        result |= compare(name, some, 10 if quick else 100, 1 if quick else SEEDS)
    return result


if __name__ == "__main__":
    run("reward_noise", "Reward models from noisy labels, three ways", measure)
