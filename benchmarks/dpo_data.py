"""DPO and KTO on real preference data, Chinese and English: held-out accuracy and reward margins.

LLaMA-Factory's demo files (Apache-2.0), from ALIGN_SHARED/data (default ../shared/data), by the importers here:
`dpo` learns from dpo_zh_demo and dpo_en_demo together, `kto` from kto_en_demo. The base is a small Llama made here and
taught a little by SFT, from nothing, on the alpaca demos of both languages; a quarter of the prompts is held out. With
some hundred pairs and so small a base the figures say that the losses learn and generalise, not how good a policy is.
`accuracy_low` and `accuracy_high` are the 95% bootstrap interval over prompts.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alignment.cli import quiet_environment
from benchmarks.record import Figure, run
from labeling.hashing import prompt_hash
from labeling.importers.formats import alpaca, kto, sharegpt_preference
from labeling.snapshot import draw

Row = dict[str, Any]
HELD_OUT = 0.25
BASE = {
    "hidden_size": 128,
    "layers": 2,
    "heads": 4,
    "intermediate_size": 352,
    "vocab_size": 4096,
    "max_length": 512,
}
TRAINING = {
    "tuning": {"method": "full"},
    "batch_size": 16,
    "microbatch": 8,
    "max_length": 512,
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


def train(base: str, folder: Path, way: str, rows: Sequence[Row]) -> dict[str, Figure]:
    from datasets import Dataset
    from transformers import set_seed

    from alignment.dpo import DPOConfig, build_trainer, prepare
    from alignment.dpo.run import measure
    from alignment.models import load_tokenizer
    from alignment.preferences import Preferences
    from alignment.runs import RunFolder

    place = {"run": str(folder / way), "policy": {"path": base}, "data": "given"}
    config = DPOConfig.model_validate(TRAINING | RUNS[way] | place)
    held_out = [draw(row["group"], 0) < HELD_OUT for row in rows]
    splits = [[row for row, out in zip(rows, held_out, strict=True) if out == test] for test in (False, True)]
    set_seed(0)
    tokenizer, run_folder = load_tokenizer(base), RunFolder.create(Path(config.run), config)
    data = Preferences(*map(Dataset.from_list, splits), None, [])
    train_rows, test_rows, left_out = prepare(config, data, tokenizer, run_folder)
    trainer = build_trainer(config, tokenizer, train_rows, test_rows, run_folder)
    trainer.train()
    after = measure(trainer, test_rows)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {
        "train": len(train_rows),
        "held_out": len(test_rows),
        "left_out": sum(left_out.values()),
        "accuracy": after["accuracy"],
        **{key: after[key] for key in ("accuracy_low", "accuracy_high") if key in after},
        "margin": after["margin"],
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


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
                {"run": str(folder / "base"), "scratch": BASE, "data": data, "max_steps": 10 if quick else 30,
                 "batch_size": 8, "microbatch": 8, "learning_rate": 2e-3, "max_length": 256}
            )
        )  # fmt: skip
        result |= {f"sft.{key}": base[key] for key in ("examples", "held_out_loss")}
        for way, rows in (("dpo", pairs()), ("kto", answers())):
            found = train(str(folder / "base" / "model"), folder, way, rows[::few])
            print(way, json.dumps(found), file=sys.stderr, flush=True)
            result |= {f"{way}.{key}": value for key, value in found.items()}
    return result


if __name__ == "__main__":
    run("dpo_data", "DPO and KTO on LLaMA-Factory's demo data", measure_all)
