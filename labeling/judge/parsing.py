"""From a stored reply to a typed outcome. What cannot be read is said to be unread, never guessed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

Outcome = Literal["verdict", "tie", "unparsed", "refused", "truncated", "api_error"]
LABELS = ("A", "B", "C")  # the first answer shown, the second, equally good


@dataclass(frozen=True)
class ReplyReading:
    """What one reply says; only a `verdict` or a `tie` says anything of the answers.

    `p_a` is the probability that the answer shown first is better. Replies that rate give `scores` instead,
    replies that rank `ranks`: of each answer as shown, 1 is the best.
    """

    outcome: Outcome
    p_a: float | None = None
    label: str | None = None  # "A", "B" or "C", whatever the template calls them
    label_mass: float | None = None  # probability that fell on the labels together; None without logprobs
    scores: dict[str, float] | None = None
    ranks: tuple[int, ...] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Said:
    """The parts of a chat completion that a verdict can be in."""

    text: str
    cut: bool  # it ended at the token limit
    logprobs: Any


Reader = Callable[[Said], ReplyReading]
_MARKUP = r"[\s*_`'\"“”‘’()（）\[\]【】「」<>#。.:：,，!！]*"
_NAME = r"(?:verdict|winner|judge?ment|(?:better )?answer|choice|结论|判断|答案|选择|(?:更好的)?回答)"
_HENCE = r"(?:therefore|thus|hence|so|overall|in conclusion|in summary)"
_REFUSAL = re.compile(
    r"\s*(?:(?:i['’]?m|i am) (?:very |so |truly )?sorry|sorry,|i (?:can(?:no|['’])t|won['’]t|am unable|am not able)"
    r"|i must decline|as an ai\b|抱歉|很抱歉|对不起|我无法|我不能|作为(?:一个|一名)?(?:ai|人工智能))",
    re.IGNORECASE,
)
_FENCED_JSON = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)
_SEPARATED = re.compile(r"\s*(>|=|,|、|，|＞|＝)\s*")


def read_reply(reply: dict[str, Any], read: Reader) -> ReplyReading:
    """Read one chat completion (the body as stored). Pure: reading the same reply again is free."""
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
        return ReplyReading("refused", reason=short(refusal) or "stopped by the endpoint's content filter")
    return read(Said(text, finish == "length", choice.get("logprobs")))


def label_reader(labels: Sequence[str] = LABELS, *, use_logprobs: bool = False) -> Reader:
    """Reads a label where it stands alone on a line, in double brackets, or named by a line ("Verdict: B").

    Two different labels are no verdict. With `use_logprobs` the probability comes from the label token's
    alternatives, a tie counting half; where the reply carries none, from the label alone.
    """

    def read(said: Said) -> ReplyReading:
        found, alone_first = find_label(said.text, tuple(labels))
        if said.cut and not alone_first:
            return cut(said.text)
        if found is None:
            return unread(said.text, "no single verdict in")
        place, position = found
        masses = label_masses(said.logprobs, said.text, position, labels, place) if use_logprobs else None
        return of_label(place, masses)

    return read


def of_label(place: int, masses: Sequence[float] | None = None) -> ReplyReading:
    outcome: Outcome = "tie" if place == 2 else "verdict"
    if masses is None:
        return ReplyReading(outcome, p_a=(1.0, 0.0, 0.5)[place], label=LABELS[place])
    total = sum(masses)
    p_a = (masses[0] + masses[2] / 2) / total
    return ReplyReading(outcome, p_a, LABELS[place], label_mass=min(total, 1.0))


def json_label_reader(labels: Sequence[str] = LABELS) -> Reader:
    """Reads {"verdict": LABEL}."""

    def read(said: Said) -> ReplyReading:
        verdict = as_object(said.text).get("verdict")
        if isinstance(verdict, str) and verdict in labels:
            return of_label(list(labels).index(verdict))
        return cut(said.text) if said.cut else unread(said.text, "no JSON with a verdict in")

    return read


def score_reader(aspects: Sequence[str], *, as_json: bool) -> Reader:
    """Reads a mark from 1 to 10 for each aspect: {"scores": {ASPECT: 7}}, or lines "ASPECT: 7"."""

    def read(said: Said) -> ReplyReading:
        given = as_object(said.text).get("scores") if as_json else lines_of_marks(said.text, aspects)
        marks = {aspect: mark(given.get(aspect)) for aspect in aspects} if isinstance(given, dict) else {}
        scores = {aspect: value for aspect, value in marks.items() if value is not None}
        if len(scores) == len(aspects) and not (said.cut and not as_json):
            return ReplyReading("verdict", scores=scores)
        return cut(said.text) if said.cut else unread(said.text, "no mark from 1 to 10 for each aspect in")

    return read


def mark(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 1 <= value <= 10 else None


def lines_of_marks(text: str, aspects: Sequence[str]) -> dict[str, float | None]:
    """The mark that each aspect's line gives; None for an aspect with two that differ. A lone number counts for
    a lone aspect."""
    found: dict[str, set[float]] = {}
    for line in text.splitlines():
        for aspect in aspects:
            named = rf"{_MARKUP}{re.escape(aspect)}{_MARKUP}(?:[:：=]{_MARKUP})?"
            name = f"(?:{named})?" if len(aspects) == 1 else named
            if match := re.fullmatch(rf"{name}{_MARKUP}(\d+(?:\.\d+)?)(?:\s*/\s*10)?{_MARKUP}", line, re.I):
                found.setdefault(aspect, set()).add(float(match[1]))
    return {aspect: next(iter(values)) if len(values) == 1 else None for aspect, values in found.items()}


def rank_reader(letters: Sequence[str], *, as_json: bool) -> Reader:
    """Reads a ranking, best first: {"ranking": ["B", "A", "C"]}, or a line "B > A = C"."""

    def read(said: Said) -> ReplyReading:
        ranks = json_ranks(said.text, letters) if as_json else line_ranks(said.text, letters)
        if ranks and not (said.cut and not as_json):
            return ReplyReading("tie" if len(set(ranks)) == 1 else "verdict", ranks=ranks)
        return cut(said.text) if said.cut else unread(said.text, "no single ranking of all answers in")

    return read


def json_ranks(text: str, letters: Sequence[str]) -> tuple[int, ...] | None:
    ranking = as_object(text).get("ranking")
    if not isinstance(ranking, list) or sorted(map(str, ranking)) != sorted(letters):
        return None
    return tuple(ranking.index(letter) + 1 for letter in letters)


def line_ranks(text: str, letters: Sequence[str]) -> tuple[int, ...] | None:
    """The ranks of the one line that ranks all; None if there is none, or several that differ."""
    found = set()
    for line in text.splitlines():
        bare = re.sub(
            rf"^{_MARKUP}(?:(?:final )?ranking|排序|排名)?{_MARKUP}|{_MARKUP}$", "", line, flags=re.I
        )
        first, *rest = _SEPARATED.split(bare)
        if sorted([first, *rest[1::2]]) == sorted(letters):
            ranks, rank = {first: 1}, 1
            for place, (sign, letter) in enumerate(zip(rest[::2], rest[1::2], strict=True), start=2):
                rank = rank if sign in "=＝" else place
                ranks[letter] = rank
            found.add(tuple(ranks[letter] for letter in letters))
    return found.pop() if len(found) == 1 else None


def as_object(text: str) -> dict[str, Any]:
    """`text` as a JSON object, also from a Markdown code block; {} if it is none."""
    block = _FENCED_JSON.fullmatch(text)
    try:
        value = json.loads(block[1] if block else text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def cut(text: str) -> ReplyReading:
    return ReplyReading("truncated", reason=f"cut at the token limit: {short(text)}")


def opens_with_refusal(text: str) -> bool:
    """Whether `text` begins as refusals do, in English or Chinese."""
    return bool(_REFUSAL.match(text))


def unread(text: str, what: str) -> ReplyReading:
    outcome: Outcome = "refused" if opens_with_refusal(text) else "unparsed"
    return ReplyReading(outcome, reason=f"{what}: {short(text)}")


@lru_cache(maxsize=64)
def _patterns(labels: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """A label in double brackets; alone on a line; named by a line; named in a text of one line."""
    label = "(" + "|".join(re.escape(one) for one in sorted(labels, key=len, reverse=True)) + ")"
    better = rf"(?:{_HENCE},? )?(?-i:{label}) is (?:the )?better(?: one| answer| output)?"
    return (
        re.compile(rf"\[\[\s*{label}\s*\]\]"),
        re.compile(rf"{_MARKUP}{label}{_MARKUP}"),
        re.compile(
            rf"{_MARKUP}(?:(?:the|my) )?(?:final |最终)?{_NAME}{_MARKUP}(?:is|为|是|[:：]){_MARKUP}"
            rf"(?-i:{label}){_MARKUP}|{_MARKUP}{better}{_MARKUP}",
            re.IGNORECASE,
        ),
        re.compile(rf"{_MARKUP}(?:answer|回答){_MARKUP}(?-i:{label}){_MARKUP}", re.IGNORECASE),
    )


def find_label(text: str, labels: tuple[str, ...] = LABELS) -> tuple[tuple[int, int] | None, bool]:
    """Which of `labels` the text gives, and its character position (None if there is none, or several that
    differ), and whether it stands alone on the first line, where a cut further on cannot change it."""
    bracketed, bare, named, alone = _patterns(labels)
    found = [(match[1], match.start(1)) for match in bracketed.finditer(text)]
    alone_first = False
    start = 0
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if match := bare.fullmatch(line):
            alone_first |= number == 0
        elif not (match := named.fullmatch(line)) and len(lines) == 1:
            match = alone.fullmatch(line)
        if match:
            group = next(group for group in range(1, match.re.groups + 1) if match[group])
            found.append((match[group], start + match.start(group)))
        start += len(line)
    if len({label for label, _ in found}) != 1:
        return None, False
    label, position = found[0]
    return (labels.index(label), position), alone_first


def label_masses(
    logprobs: Any, text: str, position: int, labels: Sequence[str], place: int
) -> list[float] | None:
    """Probability of each label at the token that wrote the label at `text[position]`.

    None if the reply carries no logprobs there, or if that token holds more than the label.
    """
    try:
        start = 0
        for token in logprobs["content"]:
            end = start + len(token["token"])
            if start <= position < end:
                return _masses_at(token, labels) if token["token"].strip() == labels[place] else None
            start = end
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    return None


def _masses_at(token: dict[str, Any], labels: Sequence[str]) -> list[float]:
    alternatives = {entry["token"]: float(entry["logprob"]) for entry in token.get("top_logprobs") or []}
    alternatives[token["token"]] = float(token["logprob"])
    masses = dict.fromkeys(labels, 0.0)
    for name, logprob in alternatives.items():
        if name.strip() in masses:  # " A" and "A" are two tokens and one label
            masses[name.strip()] += math.exp(logprob)
    if not 0 < sum(masses.values()) < math.inf:
        raise ValueError("no probability on any label")
    return list(masses.values())


def short(text: Any, limit: int = 120) -> str:
    line = " ".join(str(text or "").split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
