"""Where `align rollout` gets answers: an engine that samples tokens in batches, or an endpoint that sends text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from alignment.prompts import EncodedPrompt
from rollout.types import RolloutEngine, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rollout.openai_engine import OpenAIEngine


@dataclass(frozen=True)
class Answer:
    """One answer. tokens: None where an endpoint tells the sum only; score: None without a reward."""

    text: str
    finish_reason: str
    tokens: int | None = None
    policy_version: int = 0
    score: float | None = None

    def conversation(self, prompt: list[dict[str, str]]) -> list[dict[str, str]]:
        return [*prompt, {"role": "assistant", "content": self.text}]


@dataclass(frozen=True)
class Answered:
    """A prompt, its answers, and the tokens they took; or, without answers, the reason why there are none."""

    prompt: EncodedPrompt
    answers: Sequence[Answer]
    tokens: int
    failure: str | None = None


class Source(Protocol):
    """Answers prompts in pieces of `piece` prompts; a piece is recorded whole or not at all."""

    piece: int

    def stream(self, pieces: Sequence[Sequence[EncodedPrompt]]) -> Iterator[list[Answered]]:
        """The pieces, answered, in the order in which they are ready."""
        ...


class EngineSource:
    """Pieces are batches, each with a seed of its own: what is said in one does not depend on the others."""

    def __init__(
        self,
        engine: RolloutEngine,
        tokenizer: PreTrainedTokenizerBase,
        *,
        completions: int,
        sampling: Sampling,
        batch_size: int,
        seed: int,
    ) -> None:
        self.engine, self.tokenizer = engine, tokenizer
        self.completions, self.sampling, self.seed = completions, sampling, seed
        self.piece = max(1, batch_size // completions)

    def stream(self, pieces: Sequence[Sequence[EncodedPrompt]]) -> Iterator[list[Answered]]:
        for batch in pieces:
            self.engine.reseed(prompt_seed(self.seed, batch[0]))
            repeated = [prompt.ids for prompt in batch for _ in range(self.completions)]
            completions = self.engine.generate(repeated, self.sampling)
            answers = [
                Answer(text_of(c, self.tokenizer), c.finish_reason, len(c.token_ids), c.policy_version)
                for c in completions
            ]
            groups = [answers[i : i + self.completions] for i in range(0, len(answers), self.completions)]
            yield [
                Answered(prompt, group, sum(a.tokens or 0 for a in group))
                for prompt, group in zip(batch, groups, strict=True)
            ]


class EndpointSource:
    """Every prompt is a piece, recorded when its answers are there: they may have been paid for."""

    piece = 1

    def __init__(self, engine: OpenAIEngine, *, completions: int, sampling: Sampling, seed: int) -> None:
        self.engine = engine
        self.completions, self.sampling, self.seed = completions, sampling, seed

    def stream(self, pieces: Sequence[Sequence[EncodedPrompt]]) -> Iterator[list[Answered]]:
        prompts = [prompt for piece in pieces for prompt in piece]
        seeds = [prompt_seed(self.seed, prompt) for prompt in prompts]
        found = self.engine.answers([p.messages for p in prompts], self.completions, self.sampling, seeds)
        for index, given in found:
            answers = [Answer(t.text, t.finish_reason) for t in given.texts]
            yield [Answered(prompts[index], answers, given.tokens, given.failure)]


def text_of(completion: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(completion.token_ids, skip_special_tokens=True))


def prompt_seed(seed: int, first: EncodedPrompt) -> int:
    """A seed for the piece that begins with the prompt `first`: far from those of other runs' seeds."""
    return seed * 1_000_003 + first.row - 1
