"""`align dpo` against TRL's DPOTrainer: CPU time and memory for the same model, pairs and batches.

Every side runs in a process of its own, in turn, one thread each, on HH-RLHF dialogues (Bai et al. 2022) and a small
Llama, with LoRA on all linear layers and with every weight trained. TRL runs as it comes (`trl`: bfloat16, gradient
checkpointing, the reference asked at every step), in plain float32 (`trl_float32`), and with the best of its own
options (`trl_best`: bfloat16, reference precomputed, no checkpointing). `ours` is `align dpo` with its defaults, which
is float32 on a CPU. The reference's own time counts for nobody where it is precomputed.

`speed_ratio` and `best_speed_ratio` are `trl` and the fastest of TRL over ours, the lower of LoRA and full tuning;
ratios are of one round, and the median over rounds counts. `loss_difference` is the largest over all logged steps
between ours and TRL in float32, which see the same batches.
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

ROUNDS, PAIRS, STEPS = 3, 80, 8
BATCH, MAX_LENGTH = 8, 256
RATES = {"lora": 1e-3, "full": 1e-4}
SHAPE = {
    "hidden_size": 256,
    "layers": 4,
    "heads": 4,
    "intermediate_size": 704,
    "vocab_size": 4096,
    "max_length": 256,
}
PEERS = ("trl", "trl_float32", "trl_best")


def side(which: str, method: str, folder: Path) -> dict[str, Any]:
    """One training in this process: CPU seconds a step, peak memory, the loss of every step."""
    from transformers import TrainerCallback, set_seed

    from alignment.dpo.config import DPOConfig

    class Clock(TrainerCallback):  # type: ignore[misc]
        """CPU seconds from the end of the second step, by when everything is warm, to the end."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                self.begun = time.process_time()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.cpu = (time.process_time() - self.begun) / (state.global_step - 2)

    config = DPOConfig.model_validate(
        {
            "run": str(folder / "runs" / which),
            "policy": {"path": str(folder / "model")},
            "data": str(folder / "pairs.jsonl"),
            "tuning": {"method": method},
            "learning_rate": RATES[method],
            "batch_size": BATCH,
            "microbatch": BATCH,
            "max_length": MAX_LENGTH,
            "epochs": STEPS * BATCH / PAIRS,
        }
    )
    set_seed(0)
    trainer = our_trainer(config) if which == "ours" else trl_trainer(config, which)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"cpu": clock.cpu, "peak_mb": memory(), "losses": losses}


def memory() -> float:
    """The most that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def our_trainer(config: Any) -> Any:
    from alignment.dpo import build_trainer, prepare
    from alignment.models import load_tokenizer
    from alignment.preferences import load_preferences
    from alignment.runs import RunFolder

    run = RunFolder.create(Path(config.run), config, overwrite=True)
    tokenizer = load_tokenizer(config.policy.path)
    train, test, _ = prepare(config, load_preferences(config.data), tokenizer, run)
    trainer = build_trainer(config, tokenizer, train, test.select([]), run)
    trainer.args.logging_steps = 1
    return trainer


def trl_trainer(config: Any, which: str) -> Any:
    import trl
    from transformers import PrinterCallback

    from alignment.dpo.run import step_count
    from alignment.models import load_policy, load_tokenizer
    from alignment.preferences import load_preferences
    from alignment.tuning.apply import peft_config

    options: dict[str, Any] = {
        "trl": {},
        "trl_float32": {"bf16": False, "gradient_checkpointing": False},
        "trl_best": {"gradient_checkpointing": False, "precompute_ref_log_probs": True},
    }[which]
    train = load_preferences(config.data).train
    steps = step_count(config, len(train))
    arguments = trl.DPOConfig(
        output_dir=str(Path(config.run) / "scratch"), max_steps=steps, learning_rate=config.learning_rate,
        lr_scheduler_type="cosine", warmup_steps=int(-(-config.warmup * steps // 1)), beta=config.beta,
        per_device_train_batch_size=BATCH, max_length=MAX_LENGTH, save_strategy="no", report_to="none",
        disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, logging_steps=1, seed=config.seed, **options,
    )  # fmt: skip
    policy = load_policy(config.policy.path, "float32")
    trainer = trl.DPOTrainer(
        model=policy, args=arguments, processing_class=load_tokenizer(config.policy.path),
        train_dataset=train.select_columns(["prompt", "chosen", "rejected"]),
        peft_config=peft_config(config.tuning, "CAUSAL_LM", policy),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def prepare(folder: Path) -> None:
    """A small random Llama, and pairs that fit it: the same for every side."""
    import random

    from alignment.models import load_tokenizer
    from alignment.scratch import ScratchConfig, new_model

    rows = hh_pairs()
    random.Random(0).shuffle(rows)
    texts = [m["content"] for row in rows for m in [*row["prompt"], *row["chosen"]]]
    new_model(ScratchConfig(**SHAPE), texts, folder / "model")
    tokenizer = load_tokenizer(str(folder / "model"))

    def tokens(row: dict[str, Any], side: str) -> int:
        return len(tokenizer.apply_chat_template(row["prompt"] + row[side], return_dict=False))

    short = (row for row in rows if max(tokens(row, "chosen"), tokens(row, "rejected")) <= MAX_LENGTH)
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row, _ in zip(short, range(PAIRS), strict=False))


def measure(quick: bool) -> dict[str, Figure]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    result: dict[str, Figure] = {}
    with TemporaryDirectory() as folder:
        prepare(Path(folder))
        for method in ["lora"] if quick else ["lora", "full"]:
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*PEERS, "ours")}
            for turn in range(1 if quick else ROUNDS):
                for name, found in runs.items():
                    command = [sys.executable, "-m", "benchmarks.dpo_vs_trl", "--side", name, method, folder]
                    done = subprocess.run(
                        command, env=environment, check=True, capture_output=True, text=True
                    )
                    found.append(json.loads(done.stdout.splitlines()[-1]))
                    told = {key: round(value, 3) for key, value in found[-1].items() if key != "losses"}
                    print(f"{method}, round {turn + 1}, {name}: {told}", file=sys.stderr, flush=True)
            result |= {f"{method}.{key}": value for key, value in figures(runs).items()}
    return summary(result) | result


def figures(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Figure]:
    rounds = range(len(runs["ours"]))

    def ratio(key: str, peer: str) -> float:
        return median(runs[peer][i][key] / runs["ours"][i][key] for i in rounds)

    losses = [runs[name][0]["losses"] for name in ("ours", "trl_float32")]
    result: dict[str, Figure] = {
        "speed_ratio": ratio("cpu", "trl"),
        "best_speed_ratio": min(ratio("cpu", peer) for peer in PEERS),
        **{f"{peer}_speed_ratio": ratio("cpu", peer) for peer in PEERS[1:]},
        "memory_ratio": 1 / min(ratio("peak_mb", peer) for peer in PEERS),
        "loss_difference": max(abs(a - b) for a, b in zip(*losses, strict=True)),
        **{f"{name}.last_losses": median(found[0]["losses"][-5:]) for name, found in runs.items()},
    }
    for name, found in runs.items():
        result |= {f"{name}.{key}": median(one[key] for one in found) for key in ("cpu", "peak_mb")}
    return result


def summary(result: dict[str, Figure]) -> dict[str, Figure]:
    """The worse of both ways of tuning."""
    worse: dict[str, Any] = {
        "speed_ratio": min,
        "best_speed_ratio": min,
        "memory_ratio": max,
        "loss_difference": max,
    }
    return {
        key: choose(value for name, value in result.items() if name.partition(".")[2] == key)
        for key, choose in worse.items()
    }


if __name__ == "__main__":
    quiet_environment()
    if sys.argv[1:2] == ["--side"]:
        print(json.dumps(side(sys.argv[2], sys.argv[3], Path(sys.argv[4]))))
    else:
        run_benchmark("dpo_vs_trl", "DPO beside TRL's", measure)
