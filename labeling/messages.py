"""What a prompt and a completion must look like to be stored, compared and trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labeling.errors import LabelingError
from labeling.views import Message

ROLES = ("system", "user", "assistant", "tool")


def storable(text: str) -> str:
    """`text` as every database can hold it: PostgreSQL's text holds no NUL."""
    return text.replace("\x00", "\ufffd")


def is_empty(messages: Sequence[Message]) -> bool:
    """Whether a completion says nothing at all."""
    return not any(message["content"].strip() for message in messages)


def check_prompt(messages: Sequence[Any]) -> None:
    """Raises LabelingError unless `messages` end where a model answers, with something to answer to."""
    check_messages(messages, "prompt")
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise LabelingError("the prompt does not end in a user turn")
    if not messages[-1]["content"].strip():
        raise LabelingError("the prompt's last turn is empty")


def check_completion(messages: Sequence[Any]) -> None:
    """Raises LabelingError unless `messages` begin and end with the assistant. Empty text is allowed here."""
    check_messages(messages, "completion")
    if not messages or messages[0]["role"] != "assistant" or messages[-1]["role"] != "assistant":
        raise LabelingError("the completion does not begin and end with an assistant turn")


def check_messages(messages: Sequence[Any], what: str) -> None:
    for message in messages:
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise LabelingError(f"a message of the {what} is not {{role, content}}: {str(message)[:80]!r}")
        if message["role"] not in ROLES:
            raise LabelingError(f"unknown role {message['role']!r} in the {what}; known: {', '.join(ROLES)}")
        if not isinstance(message["content"], str):
            raise LabelingError(f"the content of a {what}'s {message['role']} message is not text")
        if not is_unicode(message["content"]):
            raise LabelingError(f"the {what}'s {message['role']} message holds invalid UTF-8")


def is_unicode(text: str) -> bool:
    """False for text with lone surrogates: what is left of bytes that were never UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
