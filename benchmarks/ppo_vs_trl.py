"""`align ppo` against TRL 1.12's PPOTrainer, the last line that had one: CPU time and memory for the same work.

Both sides run in processes of their own, alternating, one thread each: same model, prompts, answer lengths, epochs
and minibatches, LoRA r=16 on all linear layers. Ratios are TRL / ours of one round; the median over rounds counts.
`reward_difference` is of the mean score of the later half of 12 iterations, ours - TRL, with its standard error over
seeds.

Needs the peers' scripts in ALIGN_SHARED/bench (default ../shared/bench), and TRL 1.12 in an environment of its own,
whose interpreter ALIGN_TRL_PYTHON names; without it one is made, once, in ~/.cache/align.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.record import Figure
from benchmarks.record import run as run_benchmark

PEER = [
    "torch==2.13.0",
    "trl==1.12.0",
    "transformers==5.23.0",
    "peft==0.21.2",
    "accelerate==1.15.0",
    "datasets==5.2.0",
]
# name: (arguments of make_tiny, answers an iteration, epochs, iterations)
MODELS: dict[str, tuple[list[str], int, int, int]] = {
    "4m": ([], 64, 4, 3),
    "32m": (
        ["--hidden", "512", "--layers", "8", "--inter", "1408", "--vocab", "8192", "--steps", "1"],
        32,
        2,
        2,
    ),
    "v32k": (["--vocab", "32768", "--steps", "1"], 64, 1, 2),
}
ROUNDS = {"4m": 3, "32m": 3, "v32k": 1}  # of all sides in turn
SAME = ["policy.dtype=float32", "microbatch=8", "old_logprobs=engine"]
TOP_LAYERS = {"4m": 2, "32m": 4}  # the upper half


def shared_bench() -> Path:
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("ALIGN_SHARED", root.parent / "shared")) / "bench"
    if not (folder / "trl_ppo_baseline.py").exists():
        sys.exit(f"no peers' scripts in {folder}: set ALIGN_SHARED to the folder that holds bench/")
    return folder


def trl_python() -> str:
    """The interpreter of an environment with TRL 1.12, made on first use."""
    if given := os.environ.get("ALIGN_TRL_PYTHON"):
        return given
    folder = Path.home() / ".cache" / "align" / "trl-1.12"
    python = folder / "bin" / "python"
    if not (folder / ".whole").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER], check=True)
        (folder / ".whole").touch()
    return str(python)


def one_thread(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"} | more


def ours(
    model: Path, peers: Path, work: tuple[int, int, int], *overrides: str, seed: int = 0
) -> dict[str, Any]:
    episodes, epochs, steps = work
    keys = [
        f"episodes={episodes}",
        f"epochs={epochs}",
        "minibatches=4",
        "sampling.max_new_tokens=64",
        f"seed={seed}",
    ]
    command = [
        sys.executable,
        "-m",
        "benchmarks.ppo_side",
        str(model),
        str(peers),
        str(steps),
        *keys,
        *overrides,
    ]
    done = subprocess.run(command, env=one_thread(), check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def trl(
    model: Path, peers: Path, work: tuple[int, int, int], *, bf16: bool = False, seed: int = 0
) -> dict[str, Any]:
    episodes, epochs, steps = work
    command = [
        trl_python(),
        str(peers / "trl_ppo_baseline.py"),
        "--model",
        str(model),
        "--lora",
        "16",
        "--quiet",
    ]
    command += [f"--batch={episodes}", f"--epochs={epochs}", f"--steps={steps}", f"--seed={seed}"]
    with TemporaryDirectory() as folder:
        out = Path(folder) / "trl.json"
        precision = {"ACCELERATE_MIXED_PRECISION": "bf16"} if bf16 else {}
        subprocess.run(
            [*command, "--json", str(out)],
            env=one_thread(**precision),
            check=True,
            capture_output=True,
            cwd=folder,
        )
        found = json.loads(out.read_text(encoding="utf-8"))
    return {
        "cpu": found["iter_cpu_s"],
        "phases": {name: cpu for name, (_, cpu) in found["phases_wall_cpu"].items()},
        "peak_mb": found["peak_rss_mb"],
        "scores": found["scores"],
    }


def measure(quick: bool) -> dict[str, Figure]:
    peers = shared_bench()
    figures: dict[str, Figure] = {}
    with TemporaryDirectory() as folder:
        for name in ["4m"] if quick else list(MODELS):
            shape, *work = MODELS[name]
            model = Path(folder) / name
            make = [sys.executable, str(peers / "make_tiny.py"), "--out", str(model), *shape]
            subprocess.run(make, env=one_thread(), check=True, capture_output=True)
            figures |= compare(name, model, peers, (work[0], work[1], work[2]), 1 if quick else ROUNDS[name])
        if not quick:
            figures |= learning(Path(folder) / "4m", peers)
    return figures


def compare(
    name: str, model: Path, peers: Path, work: tuple[int, int, int], rounds: int
) -> dict[str, Figure]:
    episodes, epochs, steps = work
    sides = {
        "same": lambda: ours(model, peers, (episodes, epochs, steps + 1), *SAME),  # one more is not counted
        "trl": lambda: trl(model, peers, work),
        "default": lambda: ours(model, peers, work),
        "trl_bf16": lambda: trl(model, peers, work, bf16=True),
    }
    if name in TOP_LAYERS:
        sides["topk"] = lambda: ours(model, peers, work, f"tuning.layers={TOP_LAYERS[name]}")
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for turn in range(1, rounds + 1):
        for side, run_side in sides.items():
            runs[side].append(run_side())
            told = f"{name}, round {turn} of {rounds}, {side}: {runs[side][-1]['cpu']:.2f} CPU s an iteration"
            print(told, file=sys.stderr, flush=True)
    cpu = {side: [r["cpu"] for r in found] for side, found in runs.items()}
    best = [min(pair) for pair in zip(cpu["trl"], cpu["trl_bf16"], strict=True)]
    memory = [t["peak_mb"] / o["peak_mb"] for t, o in zip(runs["trl"], runs["same"], strict=True)]
    figures: dict[str, Figure] = {
        f"{name}.speed_ratio": ratio(cpu["trl"], cpu["same"]),
        f"{name}.default_speed_ratio": ratio(best, cpu["default"]),
        f"{name}.memory_ratio": 1 / median(memory),
        f"{name}.trl_cpu_s": median(cpu["trl"]),
        f"{name}.trl_bf16_cpu_s": median(cpu["trl_bf16"]),
        f"{name}.ours_cpu_s": median(cpu["same"]),
        f"{name}.ours_default_cpu_s": median(cpu["default"]),
        f"{name}.trl_peak_mb": median(r["peak_mb"] for r in runs["trl"]),
        f"{name}.ours_peak_mb": median(r["peak_mb"] for r in runs["same"]),
        f"{name}.ours_default_peak_mb": median(r["peak_mb"] for r in runs["default"]),
    }
    if "topk" in runs:
        figures[f"{name}.topk_speed_ratio"] = ratio(best, cpu["topk"])
        figures[f"{name}.ours_topk_cpu_s"] = median(cpu["topk"])
    for side in ("trl", "same"):
        for phase in runs[side][0]["phases"]:
            figures[f"{name}.{side}.{phase}_s"] = median(r["phases"][phase] for r in runs[side])
    return figures


def ratio(theirs: list[float], our: list[float]) -> float:
    return median(t / o for t, o in zip(theirs, our, strict=True))


def learning(model: Path, peers: Path, seeds: int = 8, steps: int = 12) -> dict[str, Figure]:
    """Learning curves of both, the mean score of each iteration over seeds, and of their second halves.

    Nothing is timed here, so the two sides run at once.
    """
    work = (64, 4, steps)
    with ThreadPoolExecutor(2) as both:
        ours_found = both.submit(
            lambda: [ours(model, peers, work, *SAME, seed=s)["scores"] for s in range(seeds)]
        )
        trl_found = both.submit(lambda: [trl(model, peers, work, seed=s)["scores"] for s in range(seeds)])
    curves = {"ours": ours_found.result(), "trl": trl_found.result()}
    late = {side: [mean(curve[steps // 2 :]) for curve in found] for side, found in curves.items()}
    by_seed = [o - t for o, t in zip(late["ours"], late["trl"], strict=True)]
    return {
        "reward_ours": mean(late["ours"]),
        "reward_trl": mean(late["trl"]),
        "reward_not_worse": mean(by_seed) >= 0,
        "reward_difference": mean(by_seed),
        "reward_difference_error": stdev(by_seed) / seeds**0.5,
        **{f"late.{side}": " ".join(f"{score:.2f}" for score in found) for side, found in late.items()},
        **{
            f"curve.{side}": " ".join(f"{mean(column):.2f}" for column in zip(*found, strict=True))
            for side, found in curves.items()
        },
    }


if __name__ == "__main__":
    run_benchmark("ppo_vs_trl", "PPO: our trainer against TRL 1.12's", measure)
