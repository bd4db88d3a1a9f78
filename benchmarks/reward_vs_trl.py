"""`align reward train` against TRL's RewardTrainer: CPU time and memory for the same model, pairs and batches.

Every side runs in a process of its own, in turn, one thread each: HH-RLHF dialogues, a small Llama, every weight
trained, float32. TRL runs as it comes (`trl`: bfloat16 and gradient checkpointing, which trades time for memory),
without both (`trl_plain`), and with the best of its own options (`trl_best`: batches of like length too).
`speed_ratio` is CPU seconds of the fastest of these over ours, `memory_ratio` our peak over its, `accuracy_difference`
our accuracy less its; ratios are of one round, and the median over rounds counts.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from alignment.cli import quiet_environment
from benchmarks.record import Figure
from benchmarks.record import run as run_benchmark
from benchmarks.reward_noise import hh_pairs

ROUNDS, PAIRS, HELD_OUT = 3, 192, 192
BATCH, MAX_LENGTH, RATE = 16, 512, 1e-3
SHAPE = {
    "hidden_size": 192,
    "layers": 4,
    "heads": 4,
    "intermediate_size": 512,
    "vocab_size": 4096,
    "max_length": 512,
}
SIDES = ("trl", "trl_plain", "trl_best", "ours")


def side(which: str, folder: Path) -> dict[str, Any]:
    """One training in this process: CPU seconds a step, peak memory, accuracy on held-out pairs."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback, set_seed

    from reward.config import RewardConfig
    from reward.evaluate import accuracy
    from reward.learned import score_ids
    from reward.model import from_base
    from reward.pairs import tokenize_pairs, with_mean_weight_one
    from reward.train import fit

    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = from_base(str(folder / "model"), tokenizer, dtype=torch.float32)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    train, test = (
        tokenize_pairs(
            Dataset.from_list(part),
            tokenizer,
            MAX_LENGTH,
            split="all",
            reject=lambda _: None,
            too_long="truncate",
        )
        for part in (rows[:PAIRS], rows[PAIRS:])
    )

    class Clock(TrainerCallback):  # type: ignore[misc]
        """CPU seconds from the end of the second step, by when everything is warm, to the end."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                self.begun, self.wall = time.process_time(), time.perf_counter()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.cpu = (time.process_time() - self.begun) / (state.global_step - 2)
            self.seconds = (time.perf_counter() - self.wall) / (state.global_step - 2)

    clock = Clock()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if which == "ours":
        config = RewardConfig(
            batch_size=BATCH, microbatch=BATCH, max_length=MAX_LENGTH, learning_rate=RATE, centering=0.0
        )
        fit(config, model, tokenizer, with_mean_weight_one(train), [clock])
    else:
        fit_trl(which, model, tokenizer, train, clock, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model.eval()
    ids = [*test["chosen_ids"], *test["rejected_ids"]]
    scores = score_ids(model, ids, pad_token_id=tokenizer.pad_token_id, batch_tokens=8192)
    right = accuracy(scores[: len(test)], scores[len(test) :], [1.0] * len(test))
    return {
        "cpu": clock.cpu,
        "seconds": clock.seconds,
        "peak_mb": peak,
        "growth_mb": peak - before,
        "accuracy": right,
    }


def fit_trl(which: str, model: Any, tokenizer: Any, train: Any, clock: Any, folder: Path) -> None:
    import trl
    from transformers import PrinterCallback

    options: dict[str, Any] = {"trl": {}}.get(which, {"bf16": False, "gradient_checkpointing": False})
    if which == "trl_best":
        options |= {"train_sampling_strategy": "group_by_length"}
    arguments = trl.RewardConfig(
        output_dir=str(folder / "scratch"), num_train_epochs=1, learning_rate=RATE, lr_scheduler_type="cosine",
        warmup_steps=0.05, per_device_train_batch_size=BATCH, max_length=None, save_strategy="no", report_to="none",
        disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, logging_steps=5, seed=0, **options,
    )  # fmt: skip
    columns = ["chosen_ids", "rejected_ids", *(["length"] if which == "trl_best" else [])]
    trainer = trl.RewardTrainer(
        model=model, args=arguments, train_dataset=train.select_columns(columns), processing_class=tokenizer,
        callbacks=[clock],
    )  # fmt: skip
    if which == "trl_best":  # TRL's own list of columns would lose the lengths
        trainer._set_signature_columns_if_needed()
        trainer._signature_columns.append("length")
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def prepare(folder: Path) -> None:
    import random

    from alignment.scratch import ScratchConfig, new_model

    rows = hh_pairs()
    random.Random(0).shuffle(rows)
    rows = rows[: PAIRS + HELD_OUT]
    texts = [m["content"] for row in rows for m in [*row["prompt"], *row["chosen"]]]
    new_model(ScratchConfig(**SHAPE), texts, folder / "model")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def measure(quick: bool) -> dict[str, Figure]:
    quiet_environment()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
    with TemporaryDirectory() as folder:
        prepare(Path(folder))
        for turn in range(1 if quick else ROUNDS):
            for name in SIDES:
                command = [sys.executable, "-m", "benchmarks.reward_vs_trl", "--side", name, folder]
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
                told = f"round {turn + 1}, {name}: {runs[name][-1]}"
                print(told, file=sys.stderr, flush=True)
    return figures(runs)


def figures(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Figure]:
    peers, rounds = [name for name in SIDES if name != "ours"], range(len(runs["ours"]))

    def ratio(key: str, peer: str) -> float:
        return median(runs[peer][i][key] / runs["ours"][i][key] for i in rounds)

    fastest = min(peers, key=lambda peer: ratio("cpu", peer))
    result: dict[str, Figure] = {
        "speed_ratio": ratio("cpu", fastest),
        "memory_ratio": 1 / ratio("peak_mb", fastest),
        "accuracy_difference": runs["ours"][0]["accuracy"] - runs[fastest][0]["accuracy"],
        "fastest_peer": fastest,
        **{f"{peer}_speed_ratio": ratio("cpu", peer) for peer in peers},
        **{f"{peer}_memory_ratio": 1 / ratio("peak_mb", peer) for peer in peers},
    }
    for name in SIDES:
        for key in ("cpu", "peak_mb", "accuracy"):
            result[f"{name}.{key}"] = median(one[key] for one in runs[name])
    return result


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        quiet_environment()
        print(json.dumps(side(sys.argv[2], Path(sys.argv[3]))))
    else:
        run_benchmark("reward_vs_trl", "Reward training beside TRL's", measure)
