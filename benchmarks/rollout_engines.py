"""Rollout engines side by side: tokens a second of `model.generate`, the embedded engine, and vLLM in both its forms.

Every side is a process of its own that has one random model in bfloat16 loaded and one thread to compute with; they
work in turn, so that each figure is a ratio of neighbours. Prompts have 32 tokens. Answers are all of 64 tokens
(`fixed`), or their lengths spread as people's do (`spread`: geometric, mean 32, at most 128): there `generate` waits
for the longest. `vllm-adapter` and `vllm-server` sample with a LoRA adapter beside the weights, `vllm` with whole
weights, all as delivered by `sync`.

`sync` is one delivery of a policy with a LoRA adapter that has moved: the adapter alone, or merged as whole weights.
`overlap` is an iteration of `align ppo` on a server on the same machine, with `overlap=0` and with 1: where the ratio
is above 1 it pays to sample one step ahead.

Needs vLLM: run it in the virtual environment that `make test-vllm` makes.

    .venv-vllm/bin/python -m benchmarks.rollout_engines [--quick] --json FILE
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.record import Figure, run
from benchmarks.rollout_side import MOST, RANK

# name: hidden size, layers, width of the feed-forward, heads; the vocabulary is of 8192 tokens
MODELS = {"2m": (128, 4, 352, 4), "25m": (384, 12, 1024, 6), "100m": (768, 12, 2304, 12)}
SIDES = ("generate", "transformers", "vllm", "vllm-adapter", "vllm-server")
# how many answers, do their lengths spread
WORK = {"fixed64": (64, False), "fixed256": (256, False), "spread256": (256, True)}
ROUNDS = 3
ALIGN = [sys.executable, "-c", "from alignment.cli import main; main()"]


class Side:
    """A process that does jobs; see `benchmarks.rollout_side`."""

    def __init__(self, name: str, model: Path, url: str) -> None:
        command = [sys.executable, "-m", "benchmarks.rollout_side", name, str(model), url]
        self.process = subprocess.Popen(
            command, env=one_thread(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.answer()

    def do(self, **job: Any) -> dict[str, float]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, float]:
        """The next line that is JSON: libraries print what they like."""
        assert self.process.stdout
        assert self.process.stderr
        for line in self.process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        sys.exit(f"{self.process.args!r}\n{self.process.stderr.read()}")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def one_thread() -> dict[str, str]:
    quiet = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    lean = {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}
    return os.environ | quiet | lean


@contextmanager
def serving(model: Path) -> Iterator[str]:
    """The address of `align serve` as PPO wants it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*ALIGN, "serve", str(model), "--for-training", "--lora-rank", str(RANK), "--port", str(port)]
    server = subprocess.Popen(command, env=one_thread(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert server.stdout
        if not server.stdout.readline():  # how to call it, said when it is ready
            sys.exit(f"{' '.join(command)} did not come up: run it by hand to see why")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate()


def make_model(folder: Path, shape: tuple[int, int, int, int]) -> int:
    """A random Llama in bfloat16 and a tokenizer of its vocabulary; returns how many parameters it has."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    hidden, layers, width, heads = shape
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, intermediate_size=width, num_attention_heads=heads,
        num_key_value_heads=heads, vocab_size=8192, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(config.vocab_size)}, unk_token="t1"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t0", pad_token="t0")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def measure(quick: bool) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    with TemporaryDirectory() as folder:
        for name in ["2m"] if quick else list(MODELS):
            model = Path(folder) / name
            figures[f"{name}.parameters"] = make_model(model, MODELS[name])
            figures |= {
                f"{name}.{key}": value for key, value in compare(model, 1 if quick else ROUNDS).items()
            }
        figures |= overlap(Path(folder), "2m", 1 if quick else ROUNDS)
    return figures


def compare(model: Path, rounds: int) -> dict[str, Figure]:
    with ExitStack() as stack:
        url = stack.enter_context(serving(model))
        sides = {name: Side(name, model, url) for name in SIDES}
        for side in sides.values():
            stack.callback(side.close)
            side.do(batch=8, spread=False, seed=0)  # what a first call costs once
        speeds: dict[str, dict[str, list[float]]] = {work: {side: [] for side in SIDES} for work in WORK}
        for turn in range(1, rounds + 1):
            for work, (batch, spread) in WORK.items():
                for name, side in sides.items():
                    did = side.do(batch=batch, spread=spread, seed=turn)
                    speeds[work][name].append(did["tokens"] / did["seconds"])
                    told = f"{name}: {speeds[work][name][-1]:.0f} tokens/s"
                    print(
                        f"{model.name}, round {turn} of {rounds}, {work}, {told}", file=sys.stderr, flush=True
                    )
        figures: dict[str, Figure] = {}
        for work, found in speeds.items():
            figures |= {f"{work}.{name}_tokens_s": median(them) for name, them in found.items()}
            figures |= {
                f"{work}.{name}_ratio": ratio(them, found["generate"]) for name, them in found.items()
            }
        return figures | syncs(sides)


def syncs(sides: Mapping[str, Side]) -> dict[str, Figure]:
    """Seconds of a delivery, the first apart, and the bytes that it moves."""
    figures: dict[str, Figure] = {}
    for name, side in sides.items():
        if name.startswith("vllm"):
            times = [side.do() for _ in range(5)][1:]
            figures[f"sync.{name}_s"] = median(did["seconds"] for did in times)
            figures["sync.adapter_bytes"] = times[0]["adapter_bytes"]
            figures["sync.whole_bytes"] = times[0]["whole_bytes"]
    return figures


def overlap(folder: Path, name: str, rounds: int) -> dict[str, Figure]:
    """Seconds of an iteration of PPO that waits for its answers, and of one that samples ahead; the third and later."""
    model, prompts = folder / name, folder / "prompts.jsonl"
    prompts.write_text(
        "".join(
            json.dumps({"prompt": " ".join(f"t{(7 * i + j) % 8191 + 1}" for j in range(30))}) + "\n"
            for i in range(64)
        )
    )
    keys = {"prompts": prompts, "policy.path": model, "reward": "length:words", "sampling.max_new_tokens": 64}
    keys |= {"engine": "vllm-server", "iterations": 6, "episodes": 64, "epochs": 2, "tuning.rank": RANK}
    seconds: dict[int, list[float]] = {0: [], 1: []}
    with serving(model) as url:
        for turn, ahead in itertools.product(range(rounds), seconds):
            run_folder = folder / f"ppo-{turn}-{ahead}"
            settings = keys | {"run": run_folder, "vllm.urls": f"[{url}]", "overlap": ahead}
            command = [*ALIGN, "ppo", *(f"{key}={value}" for key, value in settings.items())]
            subprocess.run(command, env=one_thread(), check=True, capture_output=True)
            rows = [json.loads(line) for line in (run_folder / "timings.jsonl").read_text().splitlines()][2:]
            seconds[ahead].append(sum(sum(row["seconds"].values()) for row in rows) / len(rows))
            print(f"overlap={ahead}: {seconds[ahead][-1]:.2f} s an iteration", file=sys.stderr, flush=True)
    return {
        "overlap.0_s": median(seconds[0]),
        "overlap.1_s": median(seconds[1]),
        "overlap.ratio": ratio(seconds[0], seconds[1]),
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    return median(o / t for o, t in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    run("rollout_engines", f"Rollout engines, up to {MOST} answers at once", measure)
