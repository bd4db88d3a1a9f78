"""DPO and KTO on real preference data, Chinese and English: held-out accuracy and reward margins.

LLaMA-Factory's demo files (Apache-2.0), from ALIGN_SHARED/data (default ../shared/data), by the importers here:
`dpo` learns from dpo_zh_demo and dpo_en_demo together, `kto` from kto_en_demo. The base is a small Llama made here and
taught by SFT, from nothing, on the alpaca demos of both languages as a mixture. Every quarter of the prompts is held
out by one of four runs, and the figures are of all of them. With some hundred pairs and so small a base they say that
the losses learn and generalise, not how good a policy is. `accuracy_low` and `accuracy_high` are the 95% bootstrap
interval over prompts.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from alignment.cli import quiet_environment
from benchmarks.record import Figure, run
from benchmarks.reward_noise import held_out
from labeling.hashing import prompt_hash
from labeling.importers.formats import alpaca, kto, sharegpt_preference
from reward.evaluate import pair_figures

Row = dict[str, Any]
FOLDS = 4
BASE = {
    "hidden_size": 128,
    "layers": 2,
    "heads": 4,
    "intermediate_size": 352,
    "vocab_size": 4096,
    "max_length": 1024,
}
TRAINING = {
    "tuning": {"method": "full"},
    "batch_size": 16,
    "microbatch": 8,
    "max_length": 1024,
    "learning_rate": 3e-4,
}
RUNS: dict[str, dict[str, Any]] = {
    "dpo": {"epochs": 2.0},
    "kto": {"loss": "kto", "epochs": 3.0},
}


def read(name: str) -> Iterator[Row]:
    root = Path(__file__).resolve().parent.parent
    file = (
        Path(os.environ.get("ALIGN_SHARED", root.parent / "shared"))
        / "data"
        / f"llamafactory_{name}_demo.jsonl.gz"
    )
    if not file.exists():
        sys.exit(f"no {file}: set ALIGN_SHARED to the folder that holds data/")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def base_texts(language: str) -> list[Row]:
    found = map(alpaca, read(f"alpaca_{language}"))
    return [{"prompt": one.prompt, "completion": one.completion} for one in found]


def pairs() -> list[Row]:
    found = [(name, sharegpt_preference(row)) for name in ("dpo_zh", "dpo_en") for row in read(name)]
    return [
        {
            "prompt": one.prompt, "chosen": one.chosen, "rejected": one.rejected, "p_chosen": 1.0, "margin": 0.0,
            "weight": 1.0, "source": name, "comparison_id": number, "group": prompt_hash(one.prompt),
        }
        for number, (name, one) in enumerate(found)
    ]  # fmt: skip


def answers() -> list[Row]:
    return [
        {
            "prompt": one.prompt, "completion": one.completion, "p_good": float(one.desirable), "weight": 1.0,
            "comparison_id": number, "group": prompt_hash(one.prompt),
        }
        for number, one in enumerate(map(kto, read("kto_en")))
    ]  # fmt: skip


@dataclass
class HeldOut:
    """What one run says of the rows that it did not see."""

    first: list[float]  # implicit rewards
    second: list[float]  # of pairs
    rows: list[Row]
    left_out: int
    losses: list[float]


def train(base: str, folder: Path, way: str, rows: Sequence[Row], fold: int) -> HeldOut:
    from datasets import Dataset
    from transformers import set_seed

    from alignment.dpo import DPOConfig, build_trainer, prepare
    from alignment.models import load_tokenizer
    from alignment.preferences import Preferences
    from alignment.runs import RunFolder

    place = {"run": str(folder / f"{way}{fold}"), "policy": {"path": base}, "data": "given"}
    config = DPOConfig.model_validate(TRAINING | RUNS[way] | place)
    splits = held_out(rows, fold, FOLDS)
    set_seed(0)
    tokenizer, run_folder = load_tokenizer(base), RunFolder.create(Path(config.run), config)
    data = Preferences(*map(Dataset.from_list, splits), None, [])
    train_rows, test_rows, left_out = prepare(config, data, tokenizer, run_folder)
    trainer = build_trainer(config, tokenizer, train_rows, test_rows, run_folder)
    trainer.train()
    first, second = trainer.held_out_scores(trainer.get_eval_dataloader())
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return HeldOut(list(first), list(second), list(test_rows), sum(left_out.values()), losses)


def figures(way: str, found: Sequence[HeldOut]) -> dict[str, Figure]:
    from alignment.dpo.run import single_figures

    rows = [row for one in found for row in one.rows]
    result: dict[str, Figure] = {
        "held_out": len(rows),
        "left_out": max(one.left_out for one in found),
        "first_loss": mean(one.losses[0] for one in found),
        "last_loss": mean(one.losses[-1] for one in found),
    }
    if way == "kto":  # scores of different runs are not compared
        each = [single_figures(one.first, [row["p_first"] for row in one.rows]) for one in found]
        both = [one for one in each if one["accuracy"] is not None]  # kinds of answers were held out
        return result | {
            key: mean(float(one[key] or 0) for one in both) if both else None
            for key in ("accuracy", "margin")
        }
    first, second = ([score for one in found for score in getattr(one, side)] for side in ("first", "second"))
    pooled = pair_figures(first, second, [row["p_first"] for row in rows], [row["group"] for row in rows])
    return result | {key: pooled[key] for key in ("accuracy", "accuracy_low", "accuracy_high", "margin")}


def measure_all(quick: bool) -> dict[str, Figure]:
    quiet_environment()
    from alignment.sft import SFTConfig, train_sft

    few = 8 if quick else 1
    result: dict[str, Figure] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        data = {}
        for language in ("zh", "en"):
            data[language] = str(folder / f"{language}.jsonl")
            lines = (json.dumps(row) + "\n" for row in base_texts(language)[::few])
            Path(data[language]).write_text("".join(lines), encoding="utf-8")
        base = train_sft(
            SFTConfig.model_validate(
                {"run": str(folder / "base"), "scratch": BASE, "data": data, "max_steps": 10 if quick else 400,
                 "batch_size": 16, "microbatch": 8, "learning_rate": 2e-3, "max_length": 512}
            )
        )  # fmt: skip
        result |= {f"sft.{key}": base[key] for key in ("examples", "held_out_loss")}
        for way, rows in (("dpo", pairs()), ("kto", answers())):
            found = [
                train(str(folder / "base" / "model"), folder, way, rows[::few], fold)
                for fold in range(1 if quick else FOLDS)
            ]
            of_way = figures(way, found)
            print(way, json.dumps(of_way), file=sys.stderr, flush=True)
            result |= {f"{way}.{key}": value for key, value in of_way.items()}
    return result


if __name__ == "__main__":
    run("dpo_data", "DPO and KTO on LLaMA-Factory's demo data", measure_all)
