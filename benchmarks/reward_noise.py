"""What noisy labels cost a reward model, and what soft labels with learned raters give back.

On the same pairs: hard labels as people gave them (`hard_clean`); the same with 30% relabelled by a simulated judge,
and nothing made of that (`hard_noisy`); with the judge's probabilities for labels (`soft_alone`); and with what
`align reward train` can learn of its raters besides (`soft`).

The judges are no language models but formulas. The `verbose` one has the two failings that are reported of real ones,
noise and a liking for long answers, and is met with `reliability` and `length_covariate: judges`; its figures are the
task's own. The `honest` one is wrong with a chance that it knows and says, and is met with `reliability`. Accuracy is
on people's held-out labels; each seed holds out another fifth of the prompts, draws the judge and starts the model
anew. Intervals are a bootstrap over prompts.

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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
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
FOLDS = 5
SEEDS = {"verbose": 15, "honest": 5}
RELABELLED = 0.3
CONFIDENCE = (0.5, 0.7)  # of the honest judge in the side that it names, drawn evenly between these, and true
# of the verbose one, log-odds for: the right side, a longer one, anything at random
SKILL, TASTE, NOISE = 0.5, 1.5, 1.0
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
}
# by task; on HH more of it, or a higher rate, gives no better accuracy on clean labels
PACE = {"hh": {"epochs": 1, "learning_rate": 1e-3}, "demo": {"epochs": 2, "learning_rate": 2e-3}}
WAYS = ("hard_clean", "hard_noisy", "soft_alone", "soft")
LEARNED: dict[str, dict[str, Any]] = {  # of the raters, by the judge among them
    "verbose": {"reliability": True, "length_covariate": "judges"},
    "honest": {"reliability": True},
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


def relabelled(rows: Sequence[Row], judge: str, seed: int) -> list[Row]:
    """`rows`, of which the judge has labelled its share anew."""
    rng = random.Random(f"judge {seed}")
    extra = [words(row["chosen"]) - words(row["rejected"]) for row in rows]
    spread = math.sqrt(sum(e * e for e in extra) / len(extra))

    def log_odds(longer: float) -> float:
        if judge == "verbose":
            return SKILL + TASTE * longer + NOISE * rng.gauss(0, 1)
        confidence = rng.uniform(*CONFIDENCE)
        return math.log(confidence / (1 - confidence)) * (1 if rng.random() < confidence else -1)

    return [
        judged(row, log_odds(e / spread)) if rng.random() < RELABELLED else row
        for row, e in zip(rows, extra, strict=True)
    ]


def judged(row: Row, log_odds: float) -> Row:
    """`row` with the label of a judge to whom its chosen side is better with these log-odds."""
    label = {"p_chosen": 1 / (1 + math.exp(-abs(log_odds))), "source": "judge", "annotator": "judge"}
    swapped = {"chosen": row["rejected"], "rejected": row["chosen"]} if log_odds < 0 else {}
    return row | swapped | label


def hardened(rows: Sequence[Row]) -> list[Row]:
    return [row | {"p_chosen": 1.0} for row in rows]


def words(messages: Sequence[Mapping[str, str]]) -> int:
    return sum(len(message["content"].split()) for message in messages)


def held_out(rows: Sequence[Row], seed: int, folds: int = FOLDS) -> tuple[list[Row], list[Row]]:
    """(train, test): every prompt is held out by one seed in `folds`."""
    fold = [int(row["group"][:8], 16) % folds == seed % folds for row in rows]
    return (
        [row for row, out in zip(rows, fold, strict=True) if not out],
        [row for row, out in zip(rows, fold, strict=True) if out],
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
    unseen = tokens(test, "test")
    ids = [*unseen["chosen_ids"], *unseen["rejected_ids"]]
    scores = np.array(score_ids(model, ids, pad_token_id=tokenizer.pad_token_id, batch_tokens=8192))
    print(f"  learned of the raters: {learned.figures()}", file=sys.stderr, flush=True)
    return np.subtract(*np.split(scores, 2)), list(unseen["group"])


def compare(name: str, parts: Mapping[str, Sequence[Row]], base_steps: int, quick: bool) -> dict[str, Figure]:
    """The figures of a task; of several parts each has its own reward models, on one base, and its own figures too."""
    result: dict[str, Figure] = {}
    with TemporaryDirectory() as folder:
        base = small_base([row for part in parts.values() for row in part], Path(folder), base_steps)
        for judge, seeds in SEEDS.items():
            given = [(part, seed) for part in parts for seed in range(1 if quick else seeds)]
            with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
                waiting = [
                    pool.submit(examine, base, parts[part], judge, seed, PACE[name]) for part, seed in given
                ]
                found: dict[str, list[Found]] = {part: [] for part in parts}
                for (part, seed), done in zip(given, waiting, strict=True):
                    one = done.result()
                    found[part].append(one)
                    told = {way: round(float(agreement(gap, 0).mean()), 3) for way, gap in one.gaps.items()}
                    print(f"{name} {part}, {judge} judge, seed {seed}: {told}", file=sys.stderr, flush=True)
            of = name if judge == "verbose" else f"{name}.{judge}"
            several = {of: [one for some in found.values() for one in some]}
            if len(parts) > 1:
                several |= {f"{of}.{part}": some for part, some in found.items()}
            for key, some in several.items():
                result |= {f"{key}.{figure}": value for figure, value in figures(some).items()}
    return result


@dataclass
class Found:
    """The gaps of held-out pairs by each way, and the pairs' groups."""

    gaps: dict[str, np.ndarray]
    groups: list[str]


def examine(base: str, rows: Sequence[Row], judge: str, seed: int, pace: Mapping[str, Any]) -> Found:
    """Train on each way's labels: what they say of the pairs held out. In a process of its own, with one thread."""
    import torch

    torch.set_num_threads(1)
    train, test = held_out(rows, seed)
    soft = relabelled(train, judge, seed)
    labels = {"hard_clean": train, "hard_noisy": hardened(soft), "soft_alone": soft, "soft": soft}
    found = {
        way: gaps(base, labels[way], test, seed, {**pace, **(LEARNED[judge] if way == "soft" else {})})
        for way in WAYS
    }
    return Found({way: gap for way, (gap, _) in found.items()}, found["soft"][1])


def figures(found: Sequence[Found]) -> dict[str, Figure]:
    """Accuracy, calibration error and loss (nats a pair) of each way over all held-out pairs, and the intervals of what
    soft labels and learned raters gain: accuracy, and loss."""
    gap = {way: np.concatenate([one.gaps[way] for one in found]) for way in WAYS}
    groups = [group for one in found for group in one.groups]
    right = {way: agreement(values, 0) for way, values in gap.items()}
    loss = {way: np.logaddexp(0, -values) for way, values in gap.items()}
    gained, saved = right["soft"] - right["hard_noisy"], loss["hard_noisy"] - loss["soft"]
    low, high = bootstrap_interval(gained, groups)
    saved_low, saved_high = bootstrap_interval(saved, groups)
    return {
        **{f"{way}_accuracy": float(values.mean()) for way, values in right.items()},
        **{
            f"{way}_ece": calibration_error(values, 0 * values, 0 * values + 1) for way, values in gap.items()
        },
        **{f"{way}_loss": float(values.mean()) for way, values in loss.items()},
        "difference": float(gained.mean()),
        "difference_low": low,
        "difference_high": high,
        "loss_difference": float(saved.mean()),
        "loss_difference_low": saved_low,
        "loss_difference_high": saved_high,
        "pairs": len(groups),
    }


def tasks() -> Iterator[tuple[str, dict[str, list[Row]]]]:
    """HH's two halves ask for opposite things (people like the short answer in one, the long in the other), and a model
    this small cannot tell which is asked: it is trained on each."""
    yield "hh", {part: hh_pairs(part) for part in ("harmless", "helpful")}
    yield "demo", {"notes": demo_pairs(1500)}


def measure(quick: bool) -> dict[str, Figure]:
    quiet_environment()
    result: dict[str, Figure] = {f"seeds.{judge}": 1 if quick else seeds for judge, seeds in SEEDS.items()}
    for name, parts in tasks():
        some = {part: rows[:: 10 if quick else 1] for part, rows in parts.items()}
        result |= compare(name, some, 10 if quick else 400, quick)
    return result


if __name__ == "__main__":
    run("reward_noise", "Reward models from noisy labels", measure)
