"""Policies answer prompts, one base model in memory at a time, and KL is measured on the tokens they sampled."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignment.console import note, progress_bar
from alignment.errors import AlignmentError
from alignment.evaluation.config import EvalConfig
from alignment.evaluation.statistics import Array, kl_estimates
from alignment.models import (
    Dtype,
    base_of,
    context_length,
    is_adapter,
    load_policy,
    load_tokenizer,
    resolve,
)
from alignment.prompts import EncodedPrompt, Message, encode_prompts
from alignment.rollouts import device, embedded_engine, text_of
from alignment.runs import RunFolder
from rollout.types import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Answer:
    """One policy's answer to one prompt and all that was measured of it."""

    policy: str
    prompt: EncodedPrompt
    completion: Completion
    text: str
    metrics: dict[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "prompt": self.prompt.messages,
            "answer": self.text,
            "finish_reason": self.completion.finish_reason,
            **self.metrics,
        }


class Shelf:
    """One base model in memory at a time; the adapters on it are put on and taken off, not loaded with it."""

    def __init__(self, dtype: Dtype) -> None:
        self.dtype = dtype
        self.base_path: str | None = None
        self.base: PreTrainedModel | None = None
        self.adapted: Any = None

    def take(self, path: str) -> Any:
        """The policy at `path`; the one taken before is no longer to be used."""
        path = resolve(path)
        if self.adapted is not None:
            self.base, self.adapted = self.adapted.unload(), None
        if base_of(path) != self.base_path:
            self.base = None
            gc.collect()
            self.base_path = base_of(path)
            self.base = load_policy(self.base_path, self.dtype).to(device())
        if not is_adapter(path):
            return self.base
        from peft import PeftModel

        self.adapted = PeftModel.from_pretrained(self.base, path).eval()
        return self.adapted


def sample_all(config: EvalConfig, prompts: Sequence[list[Message]], run: RunFolder) -> list[Answer]:
    """Every policy's answers, policy by policy, prompts in order, with length, truncation and KL measured."""
    shelf = Shelf(config.dtype)
    answers: dict[str, list[Answer]] = {}
    logprobs: dict[str, list[Array]] = {}
    vocabulary = load_tokenizer(config.policies[config.reference]).get_vocab() if config.measures_kl else None
    with progress_bar("eval", len(config.policies) * len(prompts) * config.samples) as advance:
        for name, path in config.policies.items():
            tokenizer, model = load_tokenizer(path), shelf.take(path)
            room = context_length(model) - config.sampling.max_new_tokens
            kept = encode_prompts(prompts, tokenizer, room, run.path / f"rejected_prompts.{name}.jsonl")
            repeated = [prompt for prompt in kept for _ in range(config.samples)]
            engine = embedded_engine(model, tokenizer, seed=config.seed, max_batch=config.batch_size)
            mine = answers[name] = []
            for start in range(0, len(repeated), config.batch_size):
                batch = repeated[start : start + config.batch_size]
                completions = engine.generate([p.ids for p in batch], config.sampling)
                mine += [
                    Answer(name, p, c, text_of(c, tokenizer)) for p, c in zip(batch, completions, strict=True)
                ]
                advance(len(batch), policy=name)
            advance((len(prompts) - len(kept)) * config.samples)
            if vocabulary is None:
                continue
            if tokenizer.get_vocab() == vocabulary:
                logprobs[name] = token_logprobs(model, mine, config)
            else:
                note(f"eval: no KL for {name}, whose vocabulary is not that of {config.reference}")
    if vocabulary is None:
        note("eval: no KL, since answers are not drawn from the policy's whole distribution (sampling)")
    else:
        reference = shelf.take(config.policies[config.reference])
        for name, own in logprobs.items():
            for answer, p, q in zip(
                answers[name], own, token_logprobs(reference, answers[name], config), strict=True
            ):
                answer.metrics["kl"], answer.metrics["kl_k3"] = kl_estimates(p, q)
    return answered_by_all(answers)


def answered_by_all(answers: dict[str, list[Answer]]) -> list[Answer]:
    """The answers to prompts that were short enough for every policy, so that all are compared on the same."""
    rows = set.intersection(*({a.prompt.row for a in mine} for mine in answers.values()))
    if not rows:
        raise AlignmentError("no prompt is short enough for every policy: shorten the prompts")
    return [a for mine in answers.values() for a in mine if a.prompt.row in rows]


def token_logprobs(model: Any, answers: Sequence[Answer], config: EvalConfig) -> list[Array]:
    """Log-probabilities of each answer's own token ids at the sampling temperature, in nats, from fp32 logits."""
    import torch

    from alignment.ppo.actor_critic import response_logprobs
    from alignment.ppo.sequences import join

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    found: list[Array] = []
    for start in range(0, len(answers), config.batch_size):
        batch = answers[start : start + config.batch_size]
        rows = join([a.prompt.ids for a in batch], [a.completion.token_ids for a in batch], pad_id=0)
        with torch.no_grad():
            logprobs, _ = response_logprobs(plain, rows.to(plain.device), config.sampling.temperature)
        found += [
            row[: len(a.completion.token_ids)].double().cpu().numpy()
            for a, row in zip(batch, logprobs, strict=True)
        ]
    return found
