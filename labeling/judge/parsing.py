"""From a stored reply to a typed outcome. What cannot be read is said to be unread, never guessed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["verdict", "tie", "unparsed", "refused", "truncated", "api_error"]
LABELS = ("A", "B", "C")  # answer A, answer B, equally good


@dataclass(frozen=True)
class ReplyReading:
    """What one reply says. `p_a` is the probability that the answer shown as A is better, None if unread."""

    outcome: Outcome
    p_a: float | None = None
    label: str | None = None
    label_mass: float | None = None  # probability that fell on A, B and C together; None without logprobs
    reason: str = ""


_MARKUP = r"[\s*_`'\"“”‘’()（）\[\]【】「」<>#。.:：,，!！]*"
_BARE = re.compile(rf"{_MARKUP}([ABC]){_MARKUP}")
_BRACKETED = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_NAME = r"(?:verdict|winner|judge?ment|(?:better )?answer|choice|结论|判断|答案|选择|(?:更好的)?回答)"
_NAMED = re.compile(
    rf"{_MARKUP}(?:(?:the|my) )?(?:final |最终)?{_NAME}{_MARKUP}(?:is|为|是|[:：]){_MARKUP}(?P<label>[ABC]){_MARKUP}",
    re.IGNORECASE,
)
_ANSWER = re.compile(rf"{_MARKUP}(?:answer|回答){_MARKUP}(?P<label>[ABC]){_MARKUP}", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\s*(?:(?:i['’]?m|i am) (?:very |so )?sorry|sorry,|i (?:can(?:no|['’])t|won['’]t|am unable|am not able)"
    r"|i must decline|as an ai\b|抱歉|很抱歉|对不起|我无法|我不能|作为(?:一个|一名)?(?:ai|人工智能))",
    re.IGNORECASE,
)


def read_reply(reply: dict[str, Any], use_logprobs: bool) -> ReplyReading:
    """Read one chat completion (the body as stored). Pure: reading the same reply again is free.

    A label is accepted where it stands alone on a line, in double brackets, or named by a line
    ("Verdict: B"); two different labels are no verdict. With `use_logprobs` the probability comes from the
    label token's alternatives, a tie counting half; where the reply carries none, from the label alone.
    """
    try:
        choice = reply["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text = message.get("content") or ""
        refusal = message.get("refusal")
        if not isinstance(text, str):
            raise TypeError
    except (KeyError, IndexError, TypeError, AttributeError):
        return ReplyReading("unparsed", reason="the reply is not a chat completion")
    if refusal or finish == "content_filter":
        return ReplyReading("refused", reason=_short(refusal) or "stopped by the endpoint's content filter")
    found, alone_first = find_label(text)
    if finish == "length" and not alone_first:
        return ReplyReading("truncated", reason=f"cut at the token limit: {_short(text)}")
    if found is None:
        outcome: Outcome = "refused" if _REFUSAL.match(text) else "unparsed"
        return ReplyReading(outcome, reason=f"no single verdict in: {_short(text)}")
    label, position = found
    masses = label_masses(choice.get("logprobs"), text, position) if use_logprobs else None
    return _read_label(label, masses)


def _read_label(label: str, masses: dict[str, float] | None) -> ReplyReading:
    outcome: Outcome = "tie" if label == "C" else "verdict"
    if masses is None:
        return ReplyReading(outcome, p_a={"A": 1.0, "B": 0.0, "C": 0.5}[label], label=label)
    total = sum(masses.values())
    return ReplyReading(outcome, (masses["A"] + masses["C"] / 2) / total, label, label_mass=min(total, 1.0))


def find_label(text: str) -> tuple[tuple[str, int] | None, bool]:
    """The one label in `text` and its character position (None if there is none, or several that differ),
    and whether it stands alone on the first line, where a cut further on cannot change it."""
    found = [(match[1], match.start(1)) for match in _BRACKETED.finditer(text)]
    alone_first = False
    start = 0
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if match := _BARE.fullmatch(line):
            found.append((match[1], start + match.start(1)))
            alone_first |= number == 0
        elif (match := _NAMED.fullmatch(line)) or (len(lines) == 1 and (match := _ANSWER.fullmatch(line))):
            found.append((match["label"].upper(), start + match.start("label")))
        start += len(line)
    if len({label for label, _ in found}) != 1:
        return None, False
    return found[0], alone_first


def label_masses(logprobs: Any, text: str, position: int) -> dict[str, float] | None:
    """Probability of each label at the token that wrote the label at `text[position]`.

    None if the reply carries no logprobs there, or if that token holds more than the label.
    """
    try:
        start = 0
        for token in logprobs["content"]:
            end = start + len(token["token"])
            if start <= position < end:
                return _masses_at(token) if token["token"].strip() == text[position] else None
            start = end
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    return None


def _masses_at(token: dict[str, Any]) -> dict[str, float]:
    alternatives = {entry["token"]: float(entry["logprob"]) for entry in token.get("top_logprobs") or []}
    alternatives[token["token"]] = float(token["logprob"])
    masses = dict.fromkeys(LABELS, 0.0)
    for name, logprob in alternatives.items():
        if name.strip() in masses:  # " A" and "A" are two tokens and one label
            masses[name.strip()] += math.exp(logprob)
    if not 0 < sum(masses.values()) < math.inf:
        raise ValueError("no probability on any label")
    return masses


def _short(text: Any, limit: int = 120) -> str:
    line = " ".join(str(text or "").split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
