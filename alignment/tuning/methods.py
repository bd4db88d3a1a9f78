"""Every tuning method in one table: what it trains, how large by default, and where it may be used.

`align tune list` prints it and docs/tuning.md holds it; `alignment.tuning.settings` says how each is built.
"""

from __future__ import annotations

from dataclasses import dataclass

STAGES = ("sft", "reward", "dpo", "ppo")
NOT_OFFERED = {
    "xlora": "PEFT saves X-LoRA without what mixes its adapters: train one adapter on a mixture of your tasks",
}


@dataclass(frozen=True)
class Method:
    """One way to tune. `rank` is the default of `tuning.rank`, which sizes the method by what `size` says.

    bits: of the frozen base's weights, where they are not kept as loaded. merges: whether what was learned can be
    folded into the base, so that the model costs nothing more to run.
    """

    trains: str
    paper: str
    rank: int = 16
    size: str = "rank"
    alpha: int = 32
    bits: int | None = None
    merges: bool = True
    stages: tuple[str, ...] = STAGES
    prompt: bool = False  # learns virtual tokens in front of the input, and leaves the layers as they are

    @property
    def reference(self) -> str:
        """Where DPO and PPO find the policy as it was."""
        return "frozen copy" if self is METHODS["full"] else "adapter off"


def soft_prompt(trains: str, paper: str) -> Method:
    stages = ("sft", "dpo")
    return Method(
        trains, paper, rank=20, size="virtual tokens", alpha=1, merges=False, stages=stages, prompt=True
    )


METHODS: dict[str, Method] = {
    "lora": Method("low-rank updates of all linear layers", "Hu 2021, arXiv 2106.09685"),
    "dora": Method(
        "LoRA, with the length of each weight column apart from its direction", "Liu 2024, arXiv 2402.09353"
    ),
    "rslora": Method("LoRA scaled by alpha / sqrt(rank)", "Kalajdzievski 2023, arXiv 2312.03732", alpha=8),
    "lora_plus": Method(
        "LoRA whose B learns 16 times as fast as A",
        "Hayou 2024, arXiv 2402.12354",
    ),
    "pissa": Method(
        "LoRA from the weights' first singular vectors; saved as plain LoRA of twice the rank",
        "Meng 2024, arXiv 2404.02948",
    ),
    "qlora": Method("LoRA on a base in 4 bits (NF4)", "Dettmers 2023, arXiv 2305.14314", bits=4),
    "qlora_int8": Method("LoRA on a base in 8 bits", "Dettmers 2022, arXiv 2208.07339", bits=8),
    "adalora": Method(
        "LoRA as singular values, the least important of which are pruned while it learns",
        "Zhang 2023, arXiv 2303.10512",
        rank=8,
        size="mean rank kept of 1.5 times as many",
        stages=("sft", "reward", "dpo"),
    ),
    "vera": Method(
        "two scaling vectors a layer around random matrices that all share",
        "Kopiczko 2023, arXiv 2310.11454",
        rank=256,
        size="rank of the shared matrices",
    ),
    "loha": Method("Hadamard products of low-rank updates", "Hyeon-Woo 2021, arXiv 2108.06098", rank=8),
    "lokr": Method("Kronecker products of low-rank updates", "Edalati 2022, arXiv 2212.10650", rank=8),
    "oft": Method(
        "an orthogonal rotation of each weight, in blocks",
        "Qiu 2023, arXiv 2306.07280",
        rank=32,
        size="block size",
    ),
    "boft": Method(
        "an orthogonal rotation of each weight, as a butterfly of blocks",
        "Liu 2023, arXiv 2311.06243",
        rank=4,
        size="block size",
    ),
    "hra": Method(
        "a chain of Householder reflections of each weight",
        "Yuan 2024, arXiv 2405.17484",
        rank=8,
        size="reflections, even",
    ),
    "moe": Method(
        "LoRA on attention, experts and router of a mixture of experts",
        "Hu 2021, arXiv 2106.09685",
        rank=8,
    ),
    "ia3": Method(
        "a scale for each key, value and inner feed-forward unit", "Liu 2022, arXiv 2205.05638", size="-"
    ),
    "bitfit": Method(
        "a bias for every linear layer", "Ben Zaken 2021, arXiv 2106.10199", size="-", merges=False
    ),
    "layernorm": Method("the norms' weights", "Zhao 2023, arXiv 2312.11420", size="-"),
    "houlsby": Method(
        "bottlenecks after attention and after the feed-forward part",
        "Houlsby 2019, arXiv 1902.00751",
        size="width",
        merges=False,
    ),
    "pfeiffer": Method(
        "bottlenecks after the feed-forward part",
        "Pfeiffer 2020, arXiv 2005.00247",
        size="width",
        merges=False,
    ),
    "unipelt": Method(
        "gated LoRA on queries and values, gated bottlenecks after the feed-forward part, a gated prefix",
        "Mao 2021, arXiv 2110.07577",
        size="rank, width, virtual tokens",
        merges=False,
    ),
    "prompt": soft_prompt(
        "virtual tokens before the input (soft prompt)",
        "Lester 2021, arXiv 2104.08691",
    ),
    "p_tuning": soft_prompt(
        "virtual tokens before the input, made by a small network",
        "Liu 2021, arXiv 2103.10385",
    ),
    "prefix": soft_prompt(
        "keys and values before each layer's own, made by a small network",
        "Li 2021, arXiv 2101.00190",
    ),
    "p_tuning_v2": soft_prompt(
        "keys and values before each layer's own, learned directly",
        "Liu 2021, arXiv 2110.07602",
    ),
    "full": Method(
        "every weight, or those of the last tuning.layers layers and the head", "-", size="-", merges=False
    ),
}
