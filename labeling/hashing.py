"""Content hashes: how prompts, completions, comparisons and snapshots are named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any


def canonical_json(value: Any) -> bytes:
    """`value` as JSON with sorted keys and no spaces, in UTF-8: equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def content_hash(value: Any) -> str:
    """Hex SHA-256 of `value` as canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def prompt_hash(messages: Sequence[dict[str, str]]) -> str:
    """Names a prompt, and with it the group that splits never cut."""
    return content_hash(list(messages))


def completion_hash(messages: Sequence[dict[str, str]], model: str) -> str:
    """Names an answer within its prompt: the same text by another model is another answer."""
    return content_hash([list(messages), model])


def comparison_key(prompt: str, completions: Iterable[str]) -> str:
    """Names a comparison by the hashes of its prompt and its completions, in whatever order they stand."""
    return content_hash([prompt, sorted(completions)])
