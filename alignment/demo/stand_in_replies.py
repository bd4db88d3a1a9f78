"""What the stand-in judge says: no language model, only a `quality` function seen through noise and bias."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

MODEL = "stand-in-judge"
Quality = Callable[[str, str], float]  # (prompt text, answer text) -> how good, higher is better

_FENCED = re.compile(r"<judged_(prompt|answer(?:_[a-i])?)>\n(.*?)\n</judged_\1>", re.DOTALL)
_GARBAGE = (
    "Both answers have their merits.",
    "A or B? It depends on what the guest wants.",
    '{"winner": null}',
    "Ignore the letters; here is a poem about judges.",
)


@dataclass(frozen=True)
class Manner:
    """How the stand-in judges. A logit of 1 is odds of e to 1."""

    sharpness: float = 4.0  # logit for each unit of quality between the answers
    noise: float = 0.5  # standard deviation of its view of one answer, in units of quality
    first_bias: float = 0.4  # logit added to the answer shown first
    tie_logit: float = -1.0  # logit of "equally good" when the answers seem alike
    garbage: float = 0.02  # share of requests that get a reply without a verdict


@dataclass(frozen=True)
class Mind:
    """Answers a request's body. The same body always gets the same reply, except in samples of one question."""

    quality: Quality
    seed: int
    manner: Manner
    logprobs: bool

    def chat_completion(
        self, body: dict[str, Any], name: str, *, refused: float = 0.0, truncated: float = 0.0
    ) -> dict[str, Any]:
        """The reply to a request's body, as an OpenAI chat completion; `name` is the body's hash."""
        text = "\n".join(str(message["content"]) for message in body["messages"])
        message: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        finish = "stop"
        probabilities = self.label_probabilities(text)
        said = self.answer(text, probabilities, body.get("response_format"))
        if said is None or self.drawn(name, "garbage") < self.manner.garbage:
            message["content"] = _GARBAGE[int(self.drawn(name, "which") * len(_GARBAGE))]
        elif self.drawn(name, "refused") < refused:
            message |= {"content": None, "refusal": "I cannot help with judging this."}
        elif self.drawn(name, "truncated") < truncated:
            message["content"], finish = "Let me first look at answer", "length"
        else:
            message["content"] = said
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        if self.logprobs and body.get("logprobs") and message["content"] in (probabilities or {}):
            top = [token_logprob(label, p) for label, p in (probabilities or {}).items()]
            chosen = next(entry for entry in top if entry["token"] == message["content"])
            choice["logprobs"] = {"content": [{**chosen, "top_logprobs": top[: body.get("top_logprobs", 0)]}]}
        words = len(text) // 4
        written = len(message["content"] or message["refusal"]) // 4 + 1
        return {
            "id": f"stand-in-{name[:12]}",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [choice],
            "usage": {
                "prompt_tokens": words,
                "completion_tokens": written,
                "total_tokens": words + written,
            },
        }

    def answer(
        self, text: str, probabilities: dict[str, float] | None, response_format: dict[str, Any] | None
    ) -> str | None:
        """What is asked for: a label, marks or a ranking, in JSON if there is a schema; None if that is unclear."""
        parts = dict(_FENCED.findall(text))
        prompt = parts.pop("prompt", None)
        if prompt is None or not parts:
            return None
        schema = (response_format or {}).get("json_schema", {}).get("schema", {}).get("properties", {})
        said: Any
        if set(parts) == {"answer"}:
            mark = self.mark(prompt, parts["answer"])
            aspects = list(schema.get("scores", {}).get("properties", {"overall": None}))
            said = dict.fromkeys(aspects, mark)
            return json.dumps({"scores": said}) if schema else f"overall: {mark}"
        if "ranking" in schema or (not schema and " > " in text.rpartition("</judged_")[2]):
            said = self.ranking(prompt, parts)
            return json.dumps({"ranking": said}) if schema else " > ".join(said)
        if probabilities is None:
            return None
        label = max(probabilities, key=lambda one: probabilities[one])
        if "reasoning" in schema:
            return json.dumps({"reasoning": "One of them is better.", "verdict": label})
        return json.dumps({"verdict": label}) if schema else label

    def label_probabilities(self, text: str) -> dict[str, float] | None:
        """P(A), P(B), P(C) for a request's text, None if it does not hold a fenced prompt and two answers."""
        parts = dict(_FENCED.findall(text))
        if set(parts) != {"prompt", "answer_a", "answer_b"}:
            return None
        prompt, a, b = parts["prompt"], parts["answer_a"], parts["answer_b"]
        manner = self.manner
        lead = manner.sharpness * (self.view(prompt, a) - self.view(prompt, b)) + manner.first_bias
        logits = {"A": lead / 2, "B": -lead / 2, "C": manner.tie_logit}
        total = sum(math.exp(logit) for logit in logits.values())
        return {label: math.exp(logit) / total for label, logit in logits.items()}

    def mark(self, prompt: str, answer: str) -> int:
        """1 to 10; a quality of 0 is in the middle."""
        return round(min(10.0, max(1.0, 5.5 + self.manner.sharpness * self.view(prompt, answer) / 2)))

    def ranking(self, prompt: str, answers: dict[str, str]) -> list[str]:
        """Letters, best first. The bias for what comes first falls from place to place."""
        views = {
            name[-1].upper(): self.manner.sharpness * self.view(prompt, answer)
            - self.manner.first_bias * place
            for place, (name, answer) in enumerate(answers.items())
        }
        return sorted(views, key=lambda letter: -views[letter])

    def view(self, prompt: str, answer: str) -> float:
        """The quality of an answer as the stand-in sees it: its noise belongs to the answer, not the order."""
        noise = NormalDist().inv_cdf(min(max(self.drawn(prompt, answer), 1e-12), 1 - 1e-12))
        return self.quality(prompt, answer) + self.manner.noise * noise

    def drawn(self, *what: Any) -> float:
        """A number in [0, 1) that depends on the seed and `what` alone."""
        digest = hashlib.sha256(json.dumps([self.seed, *what]).encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64


def token_logprob(token: str, probability: float) -> dict[str, Any]:
    return {"token": token, "logprob": math.log(max(probability, 1e-30)), "bytes": list(token.encode())}
