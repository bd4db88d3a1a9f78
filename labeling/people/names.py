"""What a person may be called, and when two names are the same."""

from __future__ import annotations

import unicodedata

from labeling.errors import LabelingError

LONGEST_NAME = 64
SCRIPTED = "scripted-"  # how the names of scripted annotators begin, see Store.annotator


def check_name(name: str) -> str:
    """The name as it is stored: in Unicode's NFC, with single spaces. Raises LabelingError for one that cannot be."""
    if any(is_invisible(character) for character in name):
        raise LabelingError("a name has no control characters or other invisible ones")
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not 1 <= len(name) <= LONGEST_NAME:
        raise LabelingError(f"a name has 1 to {LONGEST_NAME} characters")
    if name_key(name).startswith(SCRIPTED):
        raise LabelingError(f"a person's name does not begin with {SCRIPTED!r}")
    return name


def name_key(name: str) -> str:
    """Equal for names that differ only in case, in spaces or in how Unicode spells them."""
    folded = unicodedata.normalize("NFC", name).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


def is_invisible(character: str) -> bool:
    """Control, format (such as those that turn the direction of writing), surrogate, line and paragraph marks."""
    category = unicodedata.category(character)
    return category.startswith("C") or category in ("Zl", "Zp")
