"""The table of tuning methods: for `align tune list`, and as Markdown for docs/tuning.md.

`python -m alignment.tuning.table` prints the latter, its shares and memory computed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from alignment.errors import AlignmentError
from alignment.tuning.config import TuningConfig
from alignment.tuning.methods import METHODS, STAGES

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Figures = Mapping[str, tuple[float, float]]  # of a method: share of the weights that is trained, GiB
TOKENS = 1024  # of the one sequence that memory is counted for
COLUMNS = ("method", "trains", "default size", "trained", "GiB", "used by", "merges", "reference", "arXiv")

# For the shape of Llama 3.1 8B; a test computes them again.
LLAMA_8B: Figures = {
    "lora": (0.005223, 17.2),
    "dora": (0.005395, 17.3),
    "rslora": (0.005223, 17.2),
    "lora_plus": (0.005223, 17.2),
    "pissa": (0.010446, 17.8),
    "qlora": (0.005223, 7.9),
    "qlora_int8": (0.005223, 10.8),
    "adalora": (0.003918, 17.2),
    "vera": (0.000179, 16.7),
    "loha": (0.005223, 17.4),
    "lokr": (0.000167, 16.8),
    "oft": (0.002403, 16.9),
    "boft": (0.000233, 53.2),
    "hra": (0.001240, 22.5),
    "ia3": (0.000065, 16.7),
    "bitfit": (0.000171, 16.7),
    "layernorm": (0.000033, 16.7),
    "houlsby": (0.001077, 16.8),
    "pfeiffer": (0.000539, 16.7),
    "unipelt": (0.001975, 16.9),
    "prompt": (0.000010, 16.7),
    "p_tuning": (0.006279, 17.4),
    "prefix": (0.008498, 22.0),
    "p_tuning_v2": (0.000163, 21.1),
    "full": (1.000000, 119.7),
}


def llama_8b() -> PreTrainedConfig:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )


def figures_of(config: PreTrainedConfig, methods: Iterable[str] = METHODS) -> dict[str, tuple[float, float]]:
    """What each method trains of a model of this config, and holds while it learns from one sequence of 1024 tokens,
    in bfloat16 with checkpointed layers where it can. Methods that the model cannot take are left out."""
    from alignment.footprint import GIB, footprint_of

    found = {}
    for method in methods:
        tuning = TuningConfig(method=method)
        prefixed = method in ("prefix", "p_tuning_v2")
        try:
            size = footprint_of(config, "bfloat16", tuning, rows=1, tokens=TOKENS, checkpointed=not prefixed)
        except AlignmentError:
            continue
        master = 2 * size.parameters if method == "full" else 0  # its weights are kept in float32
        found[method] = (size.trainable_share, (size.total_bytes + master) / GIB)
    return found


def rows(figures: Figures) -> list[list[str]]:
    """A row of text for each method, in the order of COLUMNS."""
    return [
        [
            name,
            method.trains,
            "" if method.size == "-" else f"{method.rank} ({method.size})",
            f"{figures[name][0]:.3%}" if name in figures else "",
            f"{figures[name][1]:.1f}" if name in figures else "",
            "all" if method.stages == STAGES else " ".join(method.stages),
            "yes" if method.merges else "no",
            method.reference,
            method.paper.rpartition(" ")[2].removeprefix("-"),
        ]
        for name, method in METHODS.items()
    ]


def markdown(figures: Figures) -> str:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    code: Callable[[list[str]], list[str]] = lambda row: [f"`{row[0]}`", *row[1:]]  # noqa: E731
    return "\n".join(
        [line(COLUMNS), line("-" * 3 for _ in COLUMNS), *(line(code(row)) for row in rows(figures))]
    )


if __name__ == "__main__":
    print(markdown(figures_of(llama_8b())))  # noqa: T201
