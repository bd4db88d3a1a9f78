"""What a row of someone's data set can be for us, and the small steps from its columns to messages."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from labeling.messages import is_unicode
from labeling.views import Message

Row = dict[str, Any]
ROLE_NAMES = {
    "human": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    **{role: role for role in ("system", "user", "assistant", "tool")},
}


class Unfit(Exception):
    """A row that cannot be imported; the message is the reason that the rejects file gives."""


@dataclass(frozen=True)
class Pair:
    """Two answers of which one is preferred."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    margin: float = 0.0
    tie: bool = False
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """One answer; `desirable` says whether it is worth imitating."""

    prompt: list[Message]
    completion: list[Message]
    desirable: bool = True
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """A prompt alone."""

    prompt: list[Message]
    meta: dict[str, Any] = field(default_factory=dict)


Item = Pair | Answer | Question


def text_in(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise Unfit(f"column {column!r} is {'missing' if value is None else 'not text'}")
    return value


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def system(content: Any) -> list[Message]:
    """A system message in front, where there is one."""
    return [{"role": "system", "content": content}] if isinstance(content, str) and content.strip() else []


def as_turns(value: Any, column: str) -> list[Message]:
    """A list of {role, content} or of ShareGPT's {from, value} as messages."""
    if not isinstance(value, list) or not value:
        raise Unfit(f"column {column!r} is not a list of turns")
    return [as_message(turn, column) for turn in value]


def as_message(turn: Any, column: str) -> Message:
    if not isinstance(turn, dict):
        raise Unfit(f"a turn in {column!r} is not an object")
    name, content = ("from", "value") if "from" in turn else ("role", "content")
    if more := [key for key, value in turn.items() if key not in (name, content) and value]:
        raise Unfit(f"a turn in {column!r} carries {more[0]!r}, which is not text")
    role = turn.get(name)
    if not isinstance(role, str) or role not in ROLE_NAMES:
        raise Unfit(f"unknown role {role!r} in {column!r}")
    return {"role": ROLE_NAMES[role], "content": as_text(turn.get(content), column)}


def as_text(content: Any, column: str) -> str:
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        return "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise Unfit(f"a turn in {column!r} is not text")
    return content


def as_completion(value: Any, column: str) -> list[Message]:
    """An answer given as text, as one message or as a list of them."""
    if isinstance(value, str):
        return [assistant(value)]
    if isinstance(value, dict):
        return [as_message(value, column)]
    return as_turns(value, column)


def as_prompt(value: Any, column: str) -> list[Message]:
    return [user(value)] if isinstance(value, str) else as_turns(value, column)


def split_last(turns: list[Message], column: str) -> tuple[list[Message], list[Message]]:
    """A conversation as what was asked and the last answer."""
    if turns[-1]["role"] != "assistant":
        raise Unfit(f"{column!r} does not end in an answer")
    return turns[:-1], turns[-1:]


def split_pair(
    chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """Two conversations as (prompt, chosen, rejected): the prompt is what they share, up to a user turn."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == len(chosen) == len(rejected):
        raise Unfit("the two sides are the same")
    while shared and chosen[shared - 1]["role"] not in ("user", "tool"):
        shared -= 1
    if not shared:
        raise Unfit("the two sides share no prompt")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def split_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Two texts as (prompt, chosen, rejected): the prompt is what they share, up to a whole word."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == len(chosen) == len(rejected):
        raise Unfit("the two sides are the same")
    while shared and not chosen[shared - 1].isspace():
        shared -= 1
    if not chosen[:shared].strip():
        raise Unfit("the two sides share no prompt")
    return chosen[:shared].rstrip(), chosen[shared:], rejected[shared:]


def split_dialogue(text: str, column: str) -> list[Message]:
    """Anthropic's transcript ("\\n\\nHuman: ...\\n\\nAssistant: ...") as messages; turns of one role are joined."""
    head, *parts = re.split(r"\n\n(Human|Assistant):", "\n\n" + text.lstrip("\n"))
    if head.strip() or not parts:
        raise Unfit(f"{column!r} does not begin with 'Human:'")
    turns: list[Message] = []
    for name, content in zip(parts[::2], parts[1::2], strict=True):
        message = user(content.strip()) if name == "Human" else assistant(content.strip())
        if turns and turns[-1]["role"] == message["role"]:
            turns[-1]["content"] = f"{turns[-1]['content']}\n\n{message['content']}".strip()
        else:
            turns.append(message)
    return turns


def number_in(row: Row, column: str) -> float:
    value = row.get(column)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise Unfit(f"column {column!r} is not a number") from None
    if not math.isfinite(number):
        raise Unfit(f"column {column!r} is not a number")
    return number


def as_bool(value: Any, column: str) -> bool:
    """True and false as JSON, CSV and 0/1 columns write them."""
    known = {"true": True, "1": True, "false": False, "0": False}
    if str(value).lower() not in known:
        raise Unfit(f"column {column!r} is neither true nor false")
    return known[str(value).lower()]


def keepable(value: Any) -> bool:
    """Whether a column that means nothing to us can be kept with the prompt: plain, storable values can."""
    if isinstance(value, str):
        return is_unicode(value)
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
