"""What K = 4 reward models on one base cost to score with, against one: CPU time and peak memory.

Each side runs in a process of its own, in turn, one thread: a small Llama with LoRA on the upper quarter of its layers,
random weights, conversations of unlike lengths. Ratios are of one round; the median over rounds counts.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from alignment.cli import quiet_environment
from benchmarks.record import Figure
from benchmarks.record import run as run_benchmark

MEMBERS, ROUNDS, CONVERSATIONS, LONGEST = 4, 3, 64, 192
LAYERS, ADAPTED, WIDTH = 8, 2, 256


def side(members: int) -> dict[str, float]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from reward.members import score_members
    from reward.model import add_member

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=WIDTH, intermediate_size=704, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=LONGEST, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    targets = r".*\.layers\.(" + "|".join(str(i) for i in range(LAYERS - ADAPTED, LAYERS)) + r")\..*_proj"
    settings = LoraConfig(task_type="SEQ_CLS", r=16, target_modules=targets, modules_to_save=["score"])
    model = get_peft_model(LlamaForSequenceClassification(config), settings)
    for number in range(1, members):
        add_member(model, number, number)
    rng = random.Random(0)
    ids = [[rng.randrange(5, 4096) for _ in range(rng.randrange(8, LONGEST))] for _ in range(CONVERSATIONS)]
    score_members(model.eval(), ids[:16], pad_token_id=0, batch_tokens=4096)  # warm
    begun = time.process_time()
    score_members(model, ids, pad_token_id=0, batch_tokens=4096)
    cpu = time.process_time() - begun
    return {"cpu": cpu, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def measure(quick: bool) -> dict[str, Figure]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found: dict[int, list[dict[str, float]]] = {1: [], MEMBERS: []}
    with TemporaryDirectory() as elsewhere:
        for turn in range(1 if quick else ROUNDS):
            for members, several in found.items():
                command = [sys.executable, "-m", "benchmarks.reward_ensemble", "--side", str(members)]
                path = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
                done = subprocess.run(
                    command, env=environment | path, check=True, capture_output=True, text=True, cwd=elsewhere
                )
                several.append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {turn + 1}, {members} members: {several[-1]}", file=sys.stderr, flush=True)
    return {
        **{
            f"{key}_ratio": median(
                k[name] / one[name] for k, one in zip(found[MEMBERS], found[1], strict=True)
            )
            for key, name in (("time", "cpu"), ("memory", "peak_mb"))
        },
        **{
            f"{members}.{key}": median(one[key] for one in several)
            for members, several in found.items()
            for key in several[0]
        },
        "members": MEMBERS,
        "layers": LAYERS,
        "adapted_layers": ADAPTED,
    }


if __name__ == "__main__":
    quiet_environment()
    if sys.argv[1:2] == ["--side"]:
        print(json.dumps(side(int(sys.argv[2]))))
    else:
        run_benchmark("reward_ensemble", "Four reward models on one base against one", measure)
