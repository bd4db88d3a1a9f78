"""A text as cleaning sees it: its words, runs of them, and the scripts that it is written in."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

# Chinese, Japanese, Thai, Lao, Burmese and Khmer are written without spaces: each of their characters is a word.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
# a word's script is how the Unicode name of its first letter begins
SCRIPTS = {
    "latin": ("LATIN",),
    "han": ("CJK",),
    "kana": ("HIRAGANA", "KATAKANA"),
    "hangul": ("HANGUL",),
    "cyrillic": ("CYRILLIC",),
    "greek": ("GREEK",),
    "arabic": ("ARABIC",),
    "hebrew": ("HEBREW",),
    "devanagari": ("DEVANAGARI",),
    "bengali": ("BENGALI",),
    "tamil": ("TAMIL",),
    "thai": ("THAI",),
}
BY_NAME = {beginning: script for script, beginnings in SCRIPTS.items() for beginning in beginnings}
Words = tuple[str, ...]


def plain(text: str) -> str:
    """`text` with compatible characters made one (NFKC) and its white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def words(text: str) -> Words:
    """Words in lower case without punctuation; a character of an unspaced script is a word by itself."""
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def runs(of: Sequence[str], length: int) -> Iterator[Words]:
    """Every run of `length` words, in order; a shorter text is one run, an empty one none."""
    if of:
        yield from (tuple(of[i : i + length]) for i in range(max(1, len(of) - length + 1)))


def script_shares(text: str) -> dict[str, float]:
    """The share of the words in each script, "other" for those not in SCRIPTS; empty where no word has letters."""
    counts = Counter(script for word in words(text) if (script := script_of(word[0])))
    return {script: count / counts.total() for script, count in counts.items()}


@lru_cache(1 << 16)
def script_of(character: str) -> str | None:
    """None for what is not a letter."""
    if not character.isalpha():
        return None
    return BY_NAME.get(unicodedata.name(character, "").partition(" ")[0], "other")
