"""Words that an answer should not hold, from a list of the user's own."""

from __future__ import annotations

from pathlib import Path

from alignment.errors import AlignmentError
from alignment.evaluation.metrics import words


def load_word_list(path: str) -> list[str]:
    """One word or phrase a line; empty lines and those that begin with # are left out.

    Raises AlignmentError for a file that cannot be read or lists nothing.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise AlignmentError(f"toxic_words: cannot read {path}: {reason}") from None
    listed = [" ".join(words(line)) for line in lines if not line.lstrip().startswith("#")]
    if not any(listed):
        raise AlignmentError(f"toxic_words: {path} lists no word: one a line")
    return [one for one in listed if one]


def has_any(text: str, listed: list[str]) -> bool:
    """Whole words only, whatever their case; a Chinese word is a run of characters."""
    said = f" {' '.join(words(text))} "
    return any(f" {one} " in said for one in listed)
