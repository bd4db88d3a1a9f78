"""PPO at real sizes on one GPU: seconds and memory by phase, how much of the GPU the updates use, and TRL 1.12's.

`python -m benchmarks.ppo_gpu --json FILE` makes models of two well-known shapes with random weights (no answer ever
ends, so every one has as many tokens as are allowed), and runs three sides on each, every one in a process of its own:
our trainer with LoRA in bfloat16 and fused kernels (`align[gpu]`), LoRA supervised fine-tuning in a plain loop of
Transformers and PEFT on the same rows (for its memory), and TRL 1.12's PPOTrainer. TRL comes from the interpreter that
ALIGN_TRL_PYTHON names, else from an environment that is made once. A side that does not fit is recorded as such, with
the memory it asked for.

MFU is the floating-point operations that an update needs over those that the GPU does at its best: the linear layers
once forwards and once backwards (their weights are frozen), adapters with their own gradients, causal attention, the
head at the answers' tokens only. Nothing that is computed twice counts twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.ppo_vs_trl import trl_python
from benchmarks.record import Figure
from benchmarks.record import run as run_benchmark

# dense bfloat16 of the data sheets, operations a second
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Work:
    """What every side does: tokens of prompts and answers are drawn from a seed, the same for all."""

    hidden: int
    layers: int
    inner: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool
    episodes: int = 64
    shortest_prompt: int = 128
    longest_prompt: int = 256
    answer: int = 256
    epochs: int = 4
    minibatches: int = 4
    microbatch: int = 16
    iterations: int = 3
    rank: int = 16
    trl_iterations: int = 2  # the first is not counted on either side
    trl_rows: int = 64  # that TRL generates for and looks at together: as many as fit
    trl_microbatch: int = 64  # at most a minibatch; where less, TRL's optimizer steps once an epoch


WORKS = {
    # the shape of Qwen2.5-0.5B
    "0.5b": Work(896, 24, 4864, 14, 2, 151_936, True),
    # the shape of Qwen2.5-7B
    "7b": Work(3584, 28, 18_944, 28, 4, 152_064, False, trl_rows=32, trl_microbatch=4),
}
QUICK = {"tiny": Work(64, 2, 128, 4, 2, 512, True, 8, 6, 12, 8, 1, 2, 4, 2, 4, 2, 8, 8)}


def update_operations(work: Work, prompt_lengths: list[int]) -> float:
    """Floating-point operations that the updates of one iteration need (see above)."""
    size = work.hidden // work.heads
    d, inner, narrow = work.hidden, work.inner, work.key_heads * size
    linear = [(d, d), (d, narrow), (d, narrow), (d, d), (d, inner), (d, inner), (inner, d)]
    frozen = work.layers * sum(i * o for i, o in linear)
    adapters = work.layers * sum(work.rank * (i + o) for i, o in linear)
    rows = [length + work.answer for length in prompt_lengths]
    attention = work.layers * sum(6 * t * t * d for t in rows)
    head = 4 * d * work.vocabulary * work.answer * len(rows)
    return work.epochs * ((4 * frozen + 6 * adapters) * sum(rows) + attention + head)


def measure(quick: bool) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for name, work in (QUICK if quick else WORKS).items():
        with TemporaryDirectory() as folder:
            model = Path(folder) / "model"
            side("make", model, work)
            figures |= {f"{name}.{key}": value for key, value in compare(model, work).items()}
    return figures


def compare(model: Path, work: Work) -> dict[str, Figure]:
    ours, sft, trl = (side(kind, model, work) for kind in ("ours", "sft", "trl"))
    if "reason" in ours:
        return {"fits": False, "reason": ours["reason"]}
    seconds: dict[str, float] = ours["seconds"]
    whole = sum(seconds.values())
    rate = update_operations(work, ours["prompt_lengths"]) / seconds["train"]
    peak = next((flops for card, flops in PEAK.items() if card in ours["device"]), None)
    tokens = sum(ours["prompt_lengths"]) + work.answer * work.episodes
    seen = {
        "generate": work.answer * work.episodes,
        "assess": tokens,
        "train": work.epochs * tokens,
    }
    figures: dict[str, Figure] = {
        "device": ours["device"],
        "weights": ours["weights"],
        "iteration_s": whole,
        **{f"{phase}_s": spent for phase, spent in seconds.items()},
        **{f"{phase}_tokens_per_s": count / seconds[phase] for phase, count in seen.items()},
        "update_tflops": rate / 1e12,
        "matmul_tflops": ours["matmul_tflops"],
        "update_mfu": rate / peak if peak else None,
        "peak_gb": ours["peak_gb"],
        **{f"{phase}_peak_gb": held for phase, held in ours["phase_peak_gb"].items()},
        "sft_peak_gb": sft.get("peak_gb"),
        "sft_tokens_per_s": sft.get("tokens_per_s"),
        "memory_over_sft": ours["peak_gb"] / sft["peak_gb"] if sft.get("peak_gb") else None,
        "trl_fits": "reason" not in trl,
    }
    if "reason" in trl:
        return figures | {"trl_reason": trl["reason"]}
    return figures | {
        "trl_iteration_s": trl["seconds"],
        "trl_generate_s": trl["generate_s"],
        "trl_peak_gb": trl["peak_gb"],
        "speed_ratio": trl["seconds"] / whole,
    }


def side(kind: str, model: Path, work: Work) -> dict[str, Any]:
    """What one side says of itself; its `reason` where the GPU's memory was too small for it."""
    python, script = sys.executable, ["-m", "benchmarks.ppo_gpu_side"]
    if kind == "trl":
        python, script = trl_python(), [str(HERE / "ppo_gpu_trl.py")]
    command = [python, *script, kind, str(model), json.dumps(asdict(work))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        if not any("out of memory" in line for line in errors):
            sys.exit(f"{kind} of {model.parent.name} failed:\n" + "\n".join(errors[-25:]))
        reason = next(line for line in errors if "out of memory" in line)[:300]
        print(f"{kind}: {reason}", file=sys.stderr, flush=True)
        return {"reason": reason}
    print(f"{kind}: {lines[-1]}", file=sys.stderr, flush=True)
    return dict(json.loads(lines[-1]))


def typical(rows: list[dict[str, float]]) -> dict[str, float]:
    """The median of each phase over the iterations after the first, which compiles and warms up."""
    measured = rows[1:] or rows
    return {phase: median(row[phase] for row in measured) for phase in rows[0]}


if __name__ == "__main__":
    run_benchmark("ppo_gpu", "PPO at real sizes on one GPU", measure)
