"""What a row must be to stay."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignment.data_cleaning.contamination import Evaluation
from alignment.data_cleaning.duplicates import Place, Seen
from alignment.data_cleaning.words import SCRIPTS, script_shares, words
from alignment.errors import ConfigError
from labeling.importers.records import Answer, Item, Pair
from labeling.views import Message

UNREADABLE, SHORT, LONG, SCRIPT, CONTAMINATED, EXACT, NEAR = (
    "unreadable",
    "too short",
    "too long",
    "other script",
    "contaminated",
    "exact duplicate",
    "near duplicate",
)
REASONS = (UNREADABLE, SHORT, LONG, SCRIPT, CONTAMINATED, EXACT, NEAR)  # in the order in which they are tried
ENOUGH = 0.5  # of the words in the wanted scripts


@dataclass(frozen=True)
class CleaningRules:
    """min_words, max_words: of the whole row; a Chinese character is a word. scripts: see `words.SCRIPTS`; empty: any.
    near: similarity from which on rows are near duplicates; None: only exact ones leave."""

    near: float | None = 0.8
    min_words: int = 1
    max_words: int | None = None
    scripts: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.near is not None and not 0.5 <= self.near < 1:
            raise ConfigError(
                f"near duplicates are alike by 0.5 or more and less than 1, not by {self.near:g}"
            )
        if self.max_words is not None and self.max_words < self.min_words:
            raise ConfigError(f"no row has at least {self.min_words} and at most {self.max_words} words")
        for script in self.scripts:
            if script not in SCRIPTS:
                near = difflib.get_close_matches(script, SCRIPTS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(SCRIPTS)}"
                raise ConfigError(f"unknown script {script!r}; {hint}")


@dataclass(frozen=True)
class Fault:
    """Why a row leaves: one of REASONS, and what a reader of the rejects wants to know besides."""

    reason: str
    details: dict[str, Any]


class Examiner:
    """Tries rows one after the other. A row repeats an earlier one only if that one stayed."""

    def __init__(self, rules: CleaningRules, evaluation: Evaluation | None = None) -> None:
        self.rules = rules
        self.evaluation = evaluation
        self.seen = Seen(rules.near)

    def fault(self, item: Item, place: Place) -> Fault | None:
        """Why the row at `place` leaves; None if it stays."""
        texts = [message["content"] for message in messages_of(item)]
        return (
            self.fault_in_length(texts)
            or self.fault_in_script(texts)
            or self.contamination(item)
            or self.repetition(texts, place)
        )

    def fault_in_length(self, texts: Sequence[str]) -> Fault | None:
        count = sum(len(words(text)) for text in texts)
        if count < self.rules.min_words:
            return Fault(SHORT, {"words": count})
        if self.rules.max_words is not None and count > self.rules.max_words:
            return Fault(LONG, {"words": count})
        return None

    def fault_in_script(self, texts: Sequence[str]) -> Fault | None:
        """A row without letters (sums, say) is in every script."""
        shares = script_shares("\n".join(texts))
        wanted = sum(shares.get(script, 0.0) for script in self.rules.scripts)
        if not self.rules.scripts or not shares or wanted >= ENOUGH:
            return None
        return Fault(
            SCRIPT, {"shares": {script: round(share, 3) for script, share in sorted(shares.items())}}
        )

    def contamination(self, item: Item) -> Fault | None:
        found = self.evaluation and self.evaluation.find(asked_and_answered(item))
        if not found:
            return None
        place, shared = found
        return Fault(CONTAMINATED, {"by": vars(place), "shared": shared})

    def repetition(self, texts: Sequence[str], place: Place) -> Fault | None:
        duplicate = self.seen.add(texts, place)
        if not duplicate:
            return None
        details = {"of": vars(duplicate.of), "similarity": round(duplicate.similarity, 3)}
        return Fault(EXACT if duplicate.exact else NEAR, details)


def messages_of(item: Item) -> list[Message]:
    """Prompt and answers, in order."""
    if isinstance(item, Pair):
        return [*item.prompt, *item.chosen, *item.rejected]
    return [*item.prompt, *item.completion] if isinstance(item, Answer) else list(item.prompt)


def asked_and_answered(item: Item) -> list[str]:
    """The texts that an evaluation is made of: a system message is not, many rows share one."""
    return [message["content"] for message in messages_of(item) if message["role"] != "system"]
