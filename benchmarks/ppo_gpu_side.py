"""One side of `benchmarks.ppo_gpu`, as JSON on standard output: `make`, `ours` or `sft`, then MODEL and its work."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.ppo_gpu import Work, typical

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make(model: str, work: Work) -> dict[str, Any]:
    """A model folder of the shape of `work` with random weights, and a tokenizer of made-up words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **{f"t{i}": i for i in range(4, work.vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template="{% for m in messages %}{{ m['content'] }} {% endfor %}",
    ).save_pretrained(model)
    config = Qwen2Config(
        hidden_size=work.hidden,
        num_hidden_layers=work.layers,
        intermediate_size=work.inner,
        num_attention_heads=work.heads,
        num_key_value_heads=work.key_heads,
        vocab_size=work.vocabulary,
        tie_word_embeddings=work.tied,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    with DEVICE:
        made = Qwen2ForCausalLM(config).to(torch.bfloat16)
    made.save_pretrained(model)
    return {"weights": sum(p.numel() for p in made.parameters())}


def prompts(work: Work) -> list[list[int]]:
    """As many prompts as one iteration answers, times its iterations."""
    draw = torch.Generator().manual_seed(0)
    count = work.episodes * work.iterations
    lengths = torch.randint(work.shortest_prompt, work.longest_prompt + 1, (count,), generator=draw)
    return [torch.randint(4, work.vocabulary, (int(n),), generator=draw).tolist() for n in lengths]


class EvenWords:
    """The reward, a rule: the share of an answer's words with an even number."""

    def score(self, conversations: Sequence[Sequence[dict[str, str]]]) -> list[float]:
        found = []
        for conversation in conversations:
            numbers = [int(word[1:]) for word in conversation[-1]["content"].split() if word[1:].isdigit()]
            found.append(4.0 * sum(n % 2 == 0 for n in numbers) / max(1, len(numbers)))
        return found


def now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_gb() -> float:
    """The most memory that tensors held at once since the last reset, in 10^9 bytes."""
    return torch.cuda.max_memory_allocated() / 1e9 if DEVICE.type == "cuda" else 0.0


def reset_peak() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def matmul_tflops(size: int = 8192) -> float:
    """What the device does in bfloat16 on one large product, in 10^12 operations a second."""
    if DEVICE.type == "cpu":
        size = 512
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(8):
        started = now()
        a @ b
        times.append(now() - started)
    return 2 * size**3 / sorted(times)[len(times) // 2] / 1e12


def ours(model: str, work: Work) -> dict[str, Any]:
    from alignment.config import load_config
    from alignment.models import load_tokenizer
    from alignment.ppo.build import build_actor_critic, place
    from alignment.ppo.config import PPOConfig
    from alignment.ppo.trainer import PPOTrainer
    from alignment.prompts import EncodedPrompt
    from alignment.rollouts import embedded_engine

    keys = {
        "policy.path": model,
        "policy.dtype": "bfloat16",
        "run": "none",
        "reward": "none",
        "prompts": "none",
        "tuning.rank": work.rank,
        "tuning.alpha": 2 * work.rank,
        "episodes": work.episodes,
        "epochs": work.epochs,
        "minibatches": work.minibatches,
        "microbatch": work.microbatch,
        "sampling.max_new_tokens": work.answer,
    }
    config = load_config(PPOConfig, None, [f"{key}={value}" for key, value in keys.items()])
    tokenizer = load_tokenizer(model)
    models, _ = build_actor_critic(config)
    place(models, config, DEVICE)
    asked = [
        EncodedPrompt(row, [{"role": "user", "content": ""}], p) for row, p in enumerate(prompts(work), 1)
    ]
    engine = embedded_engine(models.policy(), tokenizer, seed=0, max_batch=work.episodes)
    trainer = PPOTrainer(config, models, engine, EvenWords(), asked, tokenizer, DEVICE)
    trainer.clock = now
    peaks: dict[str, float] = defaultdict(float)
    plain = trainer.phase

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        reset_peak()
        with plain(name):
            yield
        peaks[name] = max(peaks[name], peak_gb())

    trainer.phase = phase  # type: ignore[method-assign]
    rows = []
    for _ in range(work.iterations):
        trainer.step()
        rows.append(dict(trainer.seconds))
    lengths = [len(prompt.ids) for prompt in asked[: work.episodes]]
    return {
        "weights": sum(p.numel() for name, p in models.policy().named_parameters() if ".lora_" not in name),
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu",
        "seconds": typical(rows),
        "peak_gb": max(peaks.values()),
        "phase_peak_gb": dict(peaks),
        "prompt_lengths": lengths,
        "matmul_tflops": matmul_tflops(),
    }


def sft(model: str, work: Work) -> dict[str, Any]:
    """LoRA fine-tuning as Transformers and PEFT do it, on microbatches of the same rows and tokens."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = LoraConfig(
        r=work.rank, lora_alpha=2 * work.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).to(DEVICE)
    policy = get_peft_model(base, settings)
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-5)
    rows = [[*p, *p[:1] * work.answer] for p in prompts(work)]
    reset_peak()
    tokens, started = 0, now()
    for turn in range(4):
        if turn == 1:
            tokens, started = 0, now()
        batch = rows[turn * work.microbatch : (turn + 1) * work.microbatch]
        longest = max(map(len, batch))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch], device=DEVICE)
        real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch], device=DEVICE)
        policy(input_ids=ids, attention_mask=real, labels=ids.masked_fill(real == 0, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tokens += sum(map(len, batch))
    return {"peak_gb": peak_gb(), "tokens_per_s": tokens / (now() - started)}


if __name__ == "__main__":
    kind, folder, described = sys.argv[1:]
    sides = {"make": make, "ours": ours, "sft": sft}
    print(json.dumps(sides[kind](folder, Work(**json.loads(described)))))
