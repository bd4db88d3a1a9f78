"""What `align plan` and --dry-run say a training step holds, beside what it holds on the CPU.

For three families, each tuned in three ways; the measured side is a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import AutoConfig

from alignment.footprint import footprint
from alignment.tuning.config import TuningConfig
from benchmarks.record import Figure, run

SHAPE = {
    "vocab_size": 8000,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
FAMILIES = {
    "llama": {},
    "qwen2": {"hidden_size": 768, "intermediate_size": 2048, "num_key_value_heads": 8, "vocab_size": 16000},
    "mixtral": {"num_local_experts": 4, "num_hidden_layers": 4},
}
METHODS = ("lora", "full", "pfeiffer")
ROWS, TOKENS = 4, 192


def measure(quick: bool) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for family, changes in FAMILIES.items():
        for method in METHODS[:1] if quick else METHODS:
            with tempfile.TemporaryDirectory() as folder:
                AutoConfig.for_model(family, **SHAPE | changes).save_pretrained(folder)
                size = footprint(folder, "float32", TuningConfig(method=method), rows=ROWS, tokens=TOKENS)
                held = measured(Path(folder), method)
            name = f"{family}_{method}"
            figures[f"{name}_measured_mib"] = held / 2**20
            figures[f"{name}_error"] = size.total_bytes / held - 1
    figures["largest_error"] = max(abs(v) for k, v in figures.items() if k.endswith("_error"))  # type: ignore[arg-type]
    return figures


def measured(config: Path, method: str) -> int:
    command = [
        sys.executable,
        "-m",
        "benchmarks.tuning_memory_side",
        str(config),
        method,
        str(ROWS),
        str(TOKENS),
    ]
    # the allocator gives memory back as soon as it is free, so that the peak is that of live tensors
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(found.stdout.split()[-1])


if __name__ == "__main__":
    run("tuning_memory", "Estimated against measured memory of a training step", measure)
