"""What `align plan` recommends: a method, sizes that fit the memory, an order of stages, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from alignment.errors import AlignmentError
from alignment.footprint import GIB, footprint_of
from alignment.models import Dtype, base_of, from_pretrained, resolve
from alignment.tuning.config import TuningConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Purpose = Literal["prototype", "production", "private"]
AMPLE = 50_000  # examples from which tuning every weight pays
ENOUGH_FOR_REWARDS = 10_000  # pairs from which a reward model generalises well enough to optimise against
FEWEST_TOKENS = 256
RATES = {  # of SFT and of DPO
    "full": (1e-5, 5e-7),
    "prompt": (1e-2, 1e-3),
}
ADAPTER_RATES = (1e-4, 5e-6)


@dataclass(frozen=True)
class Machine:
    """Where training runs. On a GPU models compute in bfloat16 and layers are checkpointed; on the CPU neither."""

    memory: int  # bytes
    gpu: bool

    @property
    def budget(self) -> float:
        """What a run may plan with: the rest goes to the driver, fragmentation and other programs."""
        return 0.9 * self.memory - GIB if self.gpu else 0.8 * self.memory

    @property
    def dtype(self) -> Dtype:
        return "bfloat16" if self.gpu else "float32"

    @classmethod
    def here(cls) -> Machine:
        """The first GPU, or this computer's memory if it has none."""
        import os

        import torch

        if torch.cuda.is_available():
            return cls(torch.cuda.get_device_properties(0).total_memory, gpu=True)
        return cls(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), gpu=False)


@dataclass(frozen=True)
class Stage:
    """One command of the plan."""

    command: str
    method: str
    max_length: int
    microbatch: int  # examples, pairs or answers a forward
    batch_size: int
    epochs: int
    learning_rate: float
    memory_gib: float


@dataclass(frozen=True)
class Plan:
    stages: list[Stage]
    reasons: list[str]

    def as_figures(self) -> dict[str, Any]:
        return {"stages": [asdict(stage) for stage in self.stages], "reasons": self.reasons}


@dataclass(frozen=True, eq=False)
class Work:
    """What is to be tuned, on how much, and what for."""

    config: PreTrainedConfig
    machine: Machine
    examples: int = 0
    pairs: int = 0
    tokens: int = 1024
    purpose: Purpose = "production"


def recommend(work: Work) -> Plan:
    """Raises AlignmentError if there is nothing to learn from, or no method fits the memory."""
    if not work.examples and not work.pairs:
        raise AlignmentError(
            "nothing to plan for: give --examples (answers to learn) or --pairs (preferences)"
        )
    text = work.config.get_text_config()
    tokens = min(work.tokens, getattr(text, "max_position_embeddings", work.tokens))
    methods, reasons = candidates(work)
    length = tokens
    while length >= min(FEWEST_TOKENS, tokens):
        for method in methods:
            stages = stages_of(replace(work, tokens=length), method)
            if stages:
                why = [*reasons[method], *shortened(length, tokens), *order(work, method)]
                return Plan(stages, [*why, *left_out(methods[: methods.index(method)], length, work.machine)])
        length //= 2
    raise AlignmentError(
        f"nothing fits in {work.machine.memory / GIB:.0f} GiB, of {', '.join(methods)} down to "
        f"{min(FEWEST_TOKENS, tokens)} tokens: take a smaller model or more memory"
    )


def candidates(work: Work) -> tuple[list[str], dict[str, list[str]]]:
    """Methods by preference, and the rule that speaks for each."""
    reasons = {
        "full": [
            f"{work.examples:,} examples are ample (from {AMPLE:,}): every weight is tuned; mix the tasks, so that "
            "none is forgotten"
        ],
        "lora": [
            "LoRA on all linear layers learns nearly what full tuning does, and is one small file to serve"
        ],
        "qlora": [
            "the base in 4 bits leaves room for the batch: QLoRA costs little quality and a third more time"
        ],
        "prompt": [
            "for a quick prototype a soft prompt is the least to train and to keep; sample from it by PEFT's own "
            "generate, since `align rollout` and `align eval` take adapted layers only"
        ],
    }
    if work.purpose == "private":
        reasons["lora"] = reasons["qlora"] = [
            "private data stays on this machine: send adapters, which are small, and never the data; align has no "
            "federated training, but adapters of several sites can be averaged"
        ]
    if work.purpose == "prototype":
        return ["prompt", "qlora"] if work.machine.gpu else ["prompt"], reasons
    few = ["lora", "qlora"] if work.machine.gpu else ["lora"]
    return (["full", *few] if work.purpose == "production" and work.examples >= AMPLE else few), reasons


def stages_of(work: Work, method: str) -> list[Stage]:
    """The stages in their order, each as large a forward as fits; none if one of them does not fit."""
    sft, dpo = RATES.get(method, ADAPTER_RATES)
    wanted: list[tuple[str, int, int, float]] = []  # command, rows of an example, examples, learning rate
    if work.examples:
        wanted.append(("sft", 1, work.examples, sft))
    if work.pairs:
        wanted.append(("dpo", 2, work.pairs, dpo))
    if work.pairs >= ENOUGH_FOR_REWARDS and method in ("lora", "qlora", "full"):
        wanted.insert(len(wanted) - 1, ("reward train", 2, work.pairs, sft))
    stages = []
    for command, rows, examples, rate in wanted:
        batch = 32 if examples >= 1000 else 16
        found = largest(work, method, rows, batch)
        if found is None:
            return []
        micro, size = found
        epochs = 1 if examples >= 10_000 or command != "sft" else 2 if examples >= 2000 else 3
        stages.append(Stage(command, method, work.tokens, micro, batch, epochs, rate, round(size / GIB, 2)))
    return stages


def largest(work: Work, method: str, rows: int, batch: int) -> tuple[int, float] | None:
    """The most examples of `rows` sequences a forward, a power of two up to `batch`, and their bytes; None if not
    even one fits, or if LoRA would be left without room for four sequences where a base in 4 bits has it."""
    one, two = (memory(work, method, rows * n) for n in (1, 2))
    budget = work.machine.budget
    n = max((2**k for k in range(6) if 2**k <= batch and one + (2**k - 1) * (two - one) <= budget), default=0)
    size = memory(work, method, rows * n) if n > 2 else {0: 0.0, 1: one, 2: two}[n]
    while n > 1 and size > budget:  # the peak need not grow evenly
        n //= 2
        size = memory(work, method, rows * n)
    cramped = method == "lora" and work.machine.gpu and rows * n < 4
    return None if cramped or n == 0 or size > budget else (n, size)


@cache
def memory(work: Work, method: str, rows: int) -> float:
    """Bytes of a step on `rows` sequences."""
    tuning = TuningConfig(method=method)
    size = footprint_of(
        work.config, work.machine.dtype, tuning, rows=rows, tokens=work.tokens, checkpointed=work.machine.gpu
    )
    master = 2 * size.parameters if method == "full" and work.machine.gpu else 0  # weights stay in float32
    return size.total_bytes + master


def order(work: Work, method: str) -> list[str]:
    said = []
    if work.examples and work.pairs:
        said.append(
            "SFT first: preferences are learned best by a policy that already answers in the right way"
        )
    if work.pairs:
        said.append("then DPO, which needs no reward model in memory, and no sampling")
    if work.pairs >= ENOUGH_FOR_REWARDS and method in ("lora", "qlora", "full"):
        said.append(
            f"{work.pairs:,} pairs are enough for a reward model (from {ENOUGH_FOR_REWARDS:,}): it tells DPO's policy "
            "from its start, and `align ppo` can go on from there"
        )
    elif work.examples and not work.pairs:
        said.append(
            "then DPO, once there are a thousand or so labelled pairs (`align rollout`, `align label`)"
        )
    return said


def shortened(length: int, tokens: int) -> list[str]:
    if length == tokens:
        return []
    return [
        f"sequences are cut to {length} of {tokens} tokens to fit: longer examples are left out, and counted"
    ]


def left_out(tried: Sequence[str], tokens: int, machine: Machine) -> list[str]:
    return [
        f"{method} leaves too little of {machine.memory / GIB:.0f} GiB for sequences of {tokens} tokens"
        for method in tried
    ]


def config_of(model: str) -> PreTrainedConfig:
    from transformers import AutoConfig

    return from_pretrained(AutoConfig, base_of(resolve(model)))
