"""One judge: what it is asked about a comparison, and what its replies say of it. Pure: nothing is sent here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from labeling.hashing import content_hash
from labeling.judge.calls.ledger import Call
from labeling.judge.config import JudgeConfig
from labeling.judge.parsing import (
    Reader,
    ReplyReading,
    json_label_reader,
    label_reader,
    rank_reader,
    read_reply,
    score_reader,
)
from labeling.judge.rendering import as_text, fenced, load_template, render
from labeling.judge.verdict import Order, Seen, Verdict, of_pair, of_ranks, of_scores
from labeling.views import ComparisonView

LETTERS = "ABCDEFGHI"
TOP_LOGPROBS = 5  # the most that every endpoint grants
REASONING_TOKENS = 1024


@dataclass(frozen=True)
class Question:
    """A call about the answers at these stored positions, in the order in which it shows them."""

    order: Order
    call: Call


class Judge:
    """Raises LabelingError for a template that will not do."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self._template = load_template(config.prompt or config.mode, config.language, config.mode)

    def can_judge(self, comparison: ComparisonView) -> bool:
        """A pairwise judge leaves comparisons of more than two sides alone."""
        return self.config.mode != "pairwise" or len(comparison.sides) == 2

    def gave(self, comparison: ComparisonView) -> bool:
        """Whether this judge's own model gave one of the answers."""
        own = {self.config.model.lower(), self.config.model.lower().rpartition("/")[2]}
        return any(model and model.lower() in own for _, model in comparison.sides)

    def principles(self, comparison: ComparisonView) -> list[str]:
        """Those of the constitution that are drawn for this comparison: by the seed and its texts alone."""
        config = self.config
        texts = [messages for messages, _ in comparison.sides]
        drawn = Random(content_hash([config.seed, comparison.prompt, texts]))
        return drawn.sample(config.constitution, min(config.principles, len(config.constitution)))

    def questions(self, comparison: ComparisonView, reference: str = "") -> list[Question]:
        """Every call that the verdict on this comparison takes, in each order and `samples` times."""
        about = {
            "prompt": fenced("prompt", as_text(comparison.prompt)),
            "reference": fenced("reference", reference) if reference else "",
            "rubric": self.config.rubric or "",
            "principles": self.principles(comparison),
            "reasoning": self.config.reasoning,
            "form": "json" if self.config.form == "json" else "text",
            "labels": list(self.config.labels),
            "aspects": list(self.config.aspects),
        }
        texts = [as_text(messages) for messages, _ in comparison.sides]
        asked = []
        for order in self._orders(len(texts)):
            messages = render(self._template, about | self._shown([texts[side] for side in order]))
            body = {"model": self.config.model, "messages": messages, **self._sampling(len(texts))}
            asked += [
                Question(order, Call(self.config.base_url, body, sample))
                for sample in range(self.config.samples)
            ]
        return asked

    def read(self, reply: dict[str, Any], sides: int) -> ReplyReading:
        """What a reply about a comparison of so many sides says."""
        return read_reply(reply, self._reader(sides))

    def verdict(self, questions: Sequence[Question], readings: Sequence[ReplyReading]) -> Verdict:
        seen = [Seen(q.order, reading) for q, reading in zip(questions, readings, strict=True)]
        combine = {"pairwise": of_pair, "pointwise": of_scores, "list": of_ranks}[self.config.mode]
        return combine(seen, self.config.tie_band)

    def _orders(self, sides: int) -> list[Order]:
        if self.config.mode == "pointwise":
            return [(side,) for side in range(sides)]
        return [tuple(range(sides)), tuple(reversed(range(sides)))]

    def _shown(self, texts: Sequence[str]) -> dict[str, Any]:
        if self.config.mode == "pointwise":
            return {"answer": fenced("answer", texts[0])}
        shown = [
            (letter, fenced(f"answer_{letter.lower()}", text))
            for letter, text in zip(LETTERS, texts, strict=False)
        ]
        if self.config.mode == "list":
            return {"answers": shown}
        return {"answer_a": shown[0][1], "answer_b": shown[1][1]}

    def _sampling(self, sides: int) -> dict[str, Any]:
        config = self.config
        sampling: dict[str, Any] = {"max_tokens": config.max_tokens or max(16, 2 * self.usual_tokens(sides))}
        if config.temperature is not None or config.samples == 1:
            sampling["temperature"] = config.temperature or 0.0
        if config.form == "logprobs":
            sampling |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if config.form == "json":
            sampling["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "verdict", "strict": True, "schema": self._schema(sides)},
            }
        sampling |= config.parameters
        return {name: value for name, value in sampling.items() if value is not None}

    def usual_tokens(self, sides: int) -> int:
        """About how many tokens a reply takes."""
        config = self.config
        parts = {"pairwise": 1, "pointwise": 8 * len(config.aspects), "list": 4 * sides}[config.mode]
        wrapping = 12 if config.form == "json" else 0
        return parts + wrapping + (REASONING_TOKENS // 2 if config.reasoning else 0)

    def _schema(self, sides: int) -> dict[str, Any]:
        config = self.config
        answer: dict[str, Any]
        if config.mode == "pairwise":
            answer = {"verdict": {"type": "string", "enum": list(config.labels)}}
        elif config.mode == "pointwise":
            mark = {"type": "integer", "minimum": 1, "maximum": 10}
            answer = {"scores": _object(dict.fromkeys(config.aspects, mark))}
        else:
            letter = {"type": "string", "enum": list(LETTERS[:sides])}
            answer = {"ranking": {"type": "array", "items": letter}}
        # the reasoning comes first, or it would only defend a verdict that is written already
        return _object(({"reasoning": {"type": "string"}} if config.reasoning else {}) | answer)

    def _reader(self, sides: int) -> Reader:
        config, as_json = self.config, self.config.form == "json"
        if config.mode == "pointwise":
            return score_reader(config.aspects, as_json=as_json)
        if config.mode == "list":
            return rank_reader(LETTERS[:sides], as_json=as_json)
        if as_json:
            return json_label_reader(config.labels)
        return label_reader(config.labels, use_logprobs=config.form == "logprobs")


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
