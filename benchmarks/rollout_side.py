"""One side of `benchmarks.rollout_engines`: a process that holds one model in one engine and does jobs, a line each.

`python -m benchmarks.rollout_side ENGINE MODEL [URL]`: ENGINE is generate (plain `model.generate`), transformers,
vllm (whole weights), vllm-adapter or vllm-server (a LoRA adapter beside them). A job is a JSON line on standard input,
its outcome one on standard output.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rollout.types import Completion, RolloutEngine, Sampling

PROMPT = 32  # tokens
FIXED = 64  # tokens of an answer
MEAN, CAP = 32, 128  # tokens of an answer, where lengths spread: geometric, the exponential of whole numbers
RANK = 16  # of the adapter that is delivered

Prompts = Sequence[Sequence[int]]
Answer = Callable[[Prompts, Sampling, tuple[int, ...]], list[Completion]]  # prompts, sampling, stop tokens
MOST = 256  # answers at once


def load(model: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()


def plain_generate(path: str) -> Answer:
    """As trainers call it: one left-padded batch, which ends when its longest answer does."""
    import torch

    model = load(path)

    @torch.no_grad()
    def answer(prompts: Prompts, sampling: Sampling, stops: tuple[int, ...]) -> list[Completion]:
        inputs = torch.tensor(prompts)  # all of one length
        ids = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=list(stops) or None,
            pad_token_id=0,
        )[:, inputs.shape[1] :]
        return [until_stop(row, set(stops)) for row in ids.tolist()]

    return answer


def until_stop(row: list[int], stops: set[int]) -> Completion:
    end = next((place + 1 for place, token in enumerate(row) if token in stops), len(row))
    return Completion(tuple(row[:end]), (0.0,) * end, "stop" if row[end - 1] in stops else "length", 0)


def generate(answer: Answer, batch: int, spread: bool, seed: int, vocabulary: int) -> dict[str, float]:
    """Seconds and answer tokens of one batch of prompts."""
    numbers = random.Random(seed)
    prompts = [[numbers.randrange(1, vocabulary) for _ in range(PROMPT)] for _ in range(batch)]
    # a random model gives every token about the same chance, so a share of all tokens ends answers at a steady rate
    stops = tuple(numbers.sample(range(1, vocabulary), vocabulary // MEAN)) if spread else ()
    started, cpu = time.perf_counter(), time.process_time()
    completions = answer(prompts, Sampling(max_new_tokens=CAP if spread else FIXED), stops)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "tokens": sum(len(c.token_ids) for c in completions)}


def deliver(engine: RolloutEngine, policy: Any) -> dict[str, float]:
    """Seconds of one sync of a policy that has moved, and the bytes that are its adapter and its whole weights."""
    import torch
    from peft import get_peft_model_state_dict

    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.01)
    adapter = get_peft_model_state_dict(policy, save_embedding_layers=False).values()
    started = time.perf_counter()
    engine.sync(policy)
    return {
        "seconds": time.perf_counter() - started,
        "adapter_bytes": sum(t.nbytes for t in adapter),
        "whole_bytes": sum(p.nbytes for n, p in policy.named_parameters() if "lora_" not in n),
    }


def tuned(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def build(name: str, path: str, url: str | None) -> RolloutEngine:
    if name == "transformers":
        from rollout.transformers_engine import TransformersEngine

        return TransformersEngine(load(path), (), 0, max_batch=MOST)
    if name == "vllm-server":
        from rollout.vllm_server_engine import VllmServerEngine

        return VllmServerEngine([str(url)], path, (), adapter_rank=RANK)
    from rollout.vllm_engine import VllmEngine

    rank = RANK if name == "vllm-adapter" else None
    return VllmEngine(path, (), adapter_rank=rank, max_batch=MOST, max_model_len=PROMPT + CAP, cache_gib=2.0)


def of_engine(engine: Any) -> Answer:
    def answer(prompts: Prompts, sampling: Sampling, stops: tuple[int, ...]) -> list[Completion]:
        engine.stop_token_ids = list(stops)
        return list(engine.generate(prompts, sampling))

    return answer


def main(name: str, path: str, url: str | None = None) -> None:
    vocabulary = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    engine = None if name == "generate" else build(name, path, url)
    answer = plain_generate(path) if engine is None else of_engine(engine)
    policy = tuned(load(path)) if engine is not None and engine.copies else None
    if engine is not None and policy is not None:
        deliver(engine, policy)  # so that it samples as in training
    print(json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if "batch" in job:
            outcome = generate(answer, job["batch"], job["spread"], job["seed"], vocabulary)
        else:
            assert engine is not None
            outcome = deliver(engine, policy)
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
