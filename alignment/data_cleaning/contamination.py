"""Whether a row holds a piece of what a model will be examined on.

As in GPT-3 (Brown et al. 2020, appendix C): a row that shares a run of 13 words with an evaluation text is
contaminated. An evaluation text of fewer words is looked for by runs of 8, and one of fewer than 8 words only as a
whole message. A run that more than ten evaluation rows share is a phrase of their format, and one of numbers only
is counting: neither counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from alignment.data_cleaning.duplicates import Place
from alignment.data_cleaning.words import Words, runs, words

LONG, SHORT = 13, 8  # words
SHARED = 10  # evaluation rows


class Evaluation:
    """Runs of words of the evaluation texts, each with the first row that it stands in."""

    def __init__(self, rows: Iterable[tuple[Place, Sequence[str]]]) -> None:
        """rows: where a row stands, and its texts."""
        self.runs: dict[Words, Place] = {}
        self.whole: dict[Words, Place] = {}
        shared: Counter[Words] = Counter()
        for place, texts in rows:
            said = [words(text) for text in texts]
            long = [text for text in said if len(text) >= SHORT]
            found = {run for text in long for run in runs(text, length_for(text)) if not is_counting(run)}
            shared.update(found)
            for run in found:
                self.runs.setdefault(run, place)
            for text in said:
                if 0 < len(text) < SHORT:
                    self.whole.setdefault(text, place)
        self.runs = {run: place for run, place in self.runs.items() if shared[run] <= SHARED}

    def find(self, texts: Iterable[str]) -> tuple[Place, str] | None:
        """The evaluation row that one of `texts` shares words with, and these words; None if there is none."""
        for text in map(words, texts):
            if text in self.whole:
                return self.whole[text], " ".join(text)
            for length in (LONG, SHORT):
                for run in runs(text, length):
                    if run in self.runs:
                        return self.runs[run], " ".join(run)
        return None


def length_for(text: Words) -> int:
    return LONG if len(text) >= LONG else SHORT


def is_counting(run: Words) -> bool:
    return all(word.isnumeric() for word in run)
