"""Policies answer prompts, one base model in memory at a time, and KL is measured on the tokens they sampled."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from alignment.console import note, progress_bar
from alignment.errors import AlignmentError
from alignment.evaluation import completions
from alignment.evaluation.config import EvalConfig
from alignment.evaluation.logprobs import token_logprobs
from alignment.evaluation.statistics import Array, kl_estimates
from alignment.evaluation.suites import load_suites
from alignment.evaluation.texts import TextLoss, load_texts, text_loss
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
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


A = TypeVar("A", bound="Answer")


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
            "row": self.prompt.row,
            "prompt": self.prompt.messages,
            "answer": self.text,
            "finish_reason": self.completion.finish_reason,
            **self.metrics,
        }


@dataclass
class SuiteAnswer(Answer):
    """An answer to a prompt of a suite, and what would be right."""

    suite: str = ""
    expected: str = ""

    def row(self) -> dict[str, Any]:
        return {"suite": self.suite, "expected": self.expected, **super().row()}


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


@dataclass(frozen=True)
class Sampled:
    """What the policies said, also to suites, and how well each predicts the held-out text, if there is one."""

    answers: list[Answer]
    suites: list[SuiteAnswer]
    texts: dict[str, TextLoss]


def sample_all(config: EvalConfig, prompts: Sequence[list[Message]], run: RunFolder) -> Sampled:
    """Every policy's answers, policy by policy, prompts in order, with KL measured; and the loss on the text."""
    shelf = Shelf(config.dtype)
    answers: dict[str, list[Answer]] = {}
    logprobs: dict[str, list[Array]] = {}
    texts = load_texts(config.text) if config.text else []
    losses: dict[str, TextLoss] = {}
    suites = load_suites(config.suites)
    to_suites: dict[str, dict[str, list[SuiteAnswer]]] = {suite.name: {} for suite in suites}
    vocabulary = load_tokenizer(config.policies[config.reference]).get_vocab() if config.measures_kl else None
    asked = len(prompts) + sum(len(suite.prompts) for suite in suites)
    with progress_bar("eval", len(config.policies) * asked * config.samples) as advance:
        for name, path in config.policies.items():
            tokenizer, model = load_tokenizer(path), shelf.take(path)
            ask = Asking(name, model, tokenizer, config, run, advance)
            answers[name] = ask(prompts)
            for suite in suites:
                to_suites[suite.name][name] = [
                    SuiteAnswer(**vars(a), suite=suite.name, expected=suite.expected[a.prompt.row - 1])
                    for a in ask(suite.prompts, suite.name)
                ]
            if texts:
                losses[name] = text_loss(model, tokenizer, texts, context_length(model))
            if vocabulary is None:
                continue
            if tokenizer.get_vocab() == vocabulary:
                logprobs[name] = answer_logprobs(model, answers[name], config)
            else:
                note(f"eval: no KL for {name}, whose vocabulary is not that of {config.reference}")
    if vocabulary is None:
        note("eval: no KL, since answers are not drawn from the policy's whole distribution (sampling)")
    else:
        reference = shelf.take(config.policies[config.reference])
        for name, own in logprobs.items():
            theirs = answer_logprobs(reference, answers[name], config)
            for answer, p, q in zip(answers[name], own, theirs, strict=True):
                answer.metrics["kl"], answer.metrics["kl_k3"] = kl_estimates(p, q)
    of_suites = [answer for by_policy in to_suites.values() for answer in answered_by_all(by_policy)]
    return Sampled(answered_by_all(answers), of_suites, losses)


@dataclass(frozen=True)
class Asking:
    """Asks one policy."""

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    config: EvalConfig
    run: RunFolder  # gets the prompts that are too long, and the completions as they come
    advance: Callable[..., None]

    def __call__(self, prompts: Sequence[list[Message]], suite: str = "") -> list[Answer]:
        """Its answers to the prompts that are short enough for it, in order."""
        config, of = self.config, f"{self.name}.{suite}" if suite else self.name
        room = context_length(self.model) - config.sampling.max_new_tokens
        kept = encode_prompts(prompts, self.tokenizer, room, self.run.path / f"rejected_prompts.{of}.jsonl")
        repeated = [prompt for prompt in kept for _ in range(config.samples)]
        engine = embedded_engine(self.model, self.tokenizer, seed=config.seed, max_batch=config.batch_size)
        file = completions.file_for(of, config.policies[self.name], repeated)
        said = completions.kept(self.run, file, config.batch_size)
        self.advance(len(said), policy=self.name)
        for start in range(0, len(repeated), config.batch_size):
            batch = repeated[start : start + config.batch_size]
            # of a batch that is kept random numbers are drawn only
            left = range(0 if start < len(said) else len(batch))
            new = engine.generate([p.ids for p in batch], config.sampling, left)
            completions.keep(self.run, file, new)
            said += new
            self.advance(len(new), policy=self.name)
        answers = [
            Answer(self.name, prompt, completion, text_of(completion, self.tokenizer))
            for prompt, completion in zip(repeated, said, strict=True)
        ]
        self.advance((len(prompts) - len(kept)) * config.samples)
        return answers


def answer_logprobs(model: Any, answers: Sequence[Answer], config: EvalConfig) -> list[Array]:
    return token_logprobs(
        model,
        [(a.prompt.ids, a.completion.token_ids) for a in answers],
        temperature=config.sampling.temperature,
        batch_size=config.batch_size,
    )


def answered_by_all(answers: dict[str, list[A]]) -> list[A]:
    """The answers to prompts that were short enough for every policy, so that all are compared on the same."""
    rows = set.intersection(*({a.prompt.row for a in mine} for mine in answers.values()))
    if not rows:
        raise AlignmentError("no prompt is short enough for every policy: shorten the prompts")
    return [a for mine in answers.values() for a in mine if a.prompt.row in rows]
