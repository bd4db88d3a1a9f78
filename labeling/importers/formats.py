"""The formats that can be imported, most particular first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labeling.importers.records import (
    Answer,
    Item,
    Pair,
    Question,
    Row,
    Unfit,
    as_bool,
    as_completion,
    as_message,
    as_prompt,
    as_turns,
    assistant,
    number_in,
    split_dialogue,
    split_last,
    split_pair,
    split_text,
    system,
    text_in,
    user,
)
from labeling.views import Message

PROMPT_COLUMNS = ("prompt", "instruction", "question", "query", "turns")
RESPONSE_COLUMNS = {
    "prompt": ("completion", "response", "answer", "output"),
    "question": ("answer", "response", "output"),
    "query": ("answer", "response", "output"),
    "input": ("output",),
    "mr": ("ref",),
}
TAGS = ("label", "kto_tag")


@dataclass(frozen=True)
class Format:
    """`fits` looks at a row's columns only; `convert` raises Unfit for a row that it cannot read."""

    name: str
    says: str  # what its rows have
    fits: Callable[[Row], bool]
    convert: Callable[[Row], Item]
    uses: Sequence[str] = ()  # columns with a meaning; plain values of all others are kept with the prompt


def has(row: Row, *columns: str) -> bool:
    return all(row.get(column) is not None for column in columns)


def two_sides(row: Row) -> tuple[list[Message], list[Message]]:
    return as_completion(row["chosen"], "chosen"), as_completion(row["rejected"], "rejected")


def hh_rlhf(row: Row) -> Item:
    sides = (split_dialogue(text_in(row, side), side) for side in ("chosen", "rejected"))
    return Pair(*split_pair(*sides))


def trl_preference(row: Row) -> Item:
    """With the prompt as text or messages, and the sides with or without the prompt in front (as UltraFeedback)."""
    prompt = as_prompt(row["prompt"], "prompt")
    sides = two_sides(row)
    if all(side[0]["role"] == "assistant" for side in sides):
        return Pair(prompt, *sides)
    shared, chosen, rejected = split_pair(*sides)
    if prompt[-1]["content"] not in [message["content"] for message in shared]:
        raise Unfit("the prompt is not in the conversation of the two sides")
    return Pair(shared, chosen, rejected)


def ultrafeedback(row: Row) -> Item:
    """The score difference is the margin; equal scores are a tie, whichever side was called chosen."""
    margin = number_in(row, "score_chosen") - number_in(row, "score_rejected")
    if margin < 0:
        raise Unfit("the rejected side has the higher score")
    pair = trl_preference(row) if has(row, "prompt") else trl_implicit(row)
    assert isinstance(pair, Pair)  # noqa: S101 (for the type checker: both only make pairs)
    return Pair(pair.prompt, pair.chosen, pair.rejected, margin, tie=margin == 0)


def trl_implicit(row: Row) -> Item:
    if isinstance(row["chosen"], str) and isinstance(row["rejected"], str):
        prompt, chosen, rejected = split_text(row["chosen"], row["rejected"])
        return Pair([user(prompt)], [assistant(chosen)], [assistant(rejected)])
    return Pair(*split_pair(*(as_turns(row[side], side) for side in ("chosen", "rejected"))))


def sharegpt_turns(row: Row) -> list[Message]:
    if row.get("tools"):
        raise Unfit("it comes with tools, which prompts here cannot carry")
    return [*system(row.get("system")), *as_turns(row["conversations"], "conversations")]


def sharegpt_preference(row: Row) -> Item:
    return Pair(sharegpt_turns(row), *two_sides(row))


def sharegpt(row: Row) -> Item:
    return Answer(*split_last(sharegpt_turns(row), "conversations"))


def messages(row: Row) -> Item:
    if row.get("tools"):
        raise Unfit("it comes with tools, which prompts here cannot carry")
    return Answer(*split_last(as_turns(row["messages"], "messages"), "messages"))


def alpaca_prompt(row: Row) -> list[Message]:
    """Instruction and input in one user turn, after LLaMA-Factory's optional system and history."""
    turns = system(row.get("system"))
    for exchange in row.get("history") or []:
        if not isinstance(exchange, list) or len(exchange) != 2:
            raise Unfit("column 'history' is not a list of [question, answer]")
        asked, answered = exchange
        turns += [
            as_message({"role": "user", "content": asked}, "history"),
            as_message({"role": "assistant", "content": answered}, "history"),
        ]
    parts = [text_in(row, "instruction"), row.get("input") or ""]
    return [*turns, user("\n".join(part for part in parts if isinstance(part, str) and part.strip()))]


def alpaca_preference(row: Row) -> Item:
    return Pair(alpaca_prompt(row), *two_sides(row))


def alpaca(row: Row) -> Item:
    return Answer(alpaca_prompt(row), [assistant(text_in(row, "output"))])


def kto(row: Row) -> Item:
    tag = next(tag for tag in TAGS if has(row, tag))
    inner = next(f for f in (messages_format, sharegpt_format, alpaca_format, response_format) if f.fits(row))
    answer = inner.convert(row)
    assert isinstance(answer, Answer)  # noqa: S101 (for the type checker: these only make answers)
    return Answer(answer.prompt, answer.completion, desirable=as_bool(row[tag], tag))


def is_tagged(row: Row) -> bool:
    """A truth value for each answer; a label of words or of many classes is something else."""
    tags = [row[tag] for tag in TAGS if has(row, tag)]
    inner = (messages_format, sharegpt_format, alpaca_format, response_format)
    return bool(tags) and str(tags[0]).lower() in ("true", "false") and any(f.fits(row) for f in inner)


def response_columns(row: Row) -> tuple[str, str] | None:
    pairs = ((asked, given) for asked, options in RESPONSE_COLUMNS.items() for given in options)
    return next((pair for pair in pairs if has(row, *pair)), None)


def prompt_response(row: Row) -> Item:
    asked, given = response_columns(row) or ("prompt", "completion")
    return Answer(as_prompt(row.get(asked), asked), as_completion(row.get(given), given))


def prompts(row: Row) -> Item:
    """Of several user turns (as MT-bench has them) the first is the prompt; the later ones are kept beside it."""
    column = next(column for column in PROMPT_COLUMNS if has(row, column))
    if column == "instruction":
        return Question(alpaca_prompt(row))
    turns = row[column]
    if isinstance(turns, list) and turns and all(isinstance(turn, str) for turn in turns):
        return Question([user(turns[0])], {"later_turns": turns[1:]} if turns[1:] else {})
    return Question(as_prompt(turns, column))


response_format = Format(
    "prompt-response",
    "a column that asks and one that answers (" + ", ".join(f"{a}/{b[0]}" for a, b in RESPONSE_COLUMNS.items()) + ")",
    lambda row: response_columns(row) is not None,
    prompt_response,
    tuple({*RESPONSE_COLUMNS, *(given for options in RESPONSE_COLUMNS.values() for given in options)}),
)  # fmt: skip
alpaca_format = Format(
    "alpaca",
    "columns instruction and output",
    lambda row: has(row, "instruction", "output"),
    alpaca,
    ("instruction", "input", "output", "system", "history"),
)
sharegpt_format = Format(
    "sharegpt",
    "a list of turns in conversations",
    lambda row: isinstance(row.get("conversations"), list),
    sharegpt,
    ("conversations", "system", "tools"),
)
messages_format = Format(
    "messages",
    "a list of turns in messages",
    lambda row: isinstance(row.get("messages"), list),
    messages,
    ("messages", "tools"),
)
SIDES = ("chosen", "rejected")
FORMATS = (
    Format(
        "hh-rlhf",
        "dialogues as text ('Human: ... Assistant: ...') in chosen and rejected",
        lambda row: all(str(row.get(side)).lstrip().startswith("Human:") for side in SIDES),
        hh_rlhf,
        SIDES,
    ),
    Format(
        "ultrafeedback",
        "columns chosen, rejected, score_chosen and score_rejected",
        lambda row: has(row, *SIDES, "score_chosen", "score_rejected"),
        ultrafeedback,
        ("prompt", *SIDES, "score_chosen", "score_rejected"),
    ),
    Format(
        "sharegpt-preference",
        "columns conversations, chosen and rejected",
        lambda row: has(row, "conversations", *SIDES),
        sharegpt_preference,
        (*sharegpt_format.uses, *SIDES),
    ),
    Format(
        "alpaca-preference",
        "columns instruction, chosen and rejected",
        lambda row: has(row, "instruction", *SIDES),
        alpaca_preference,
        (*alpaca_format.uses, *SIDES),
    ),
    Format(
        "trl-preference",
        "columns prompt, chosen and rejected",
        lambda row: has(row, "prompt", *SIDES),
        trl_preference,
        ("prompt", *SIDES),
    ),
    Format(
        "trl-preference-implicit",
        "columns chosen and rejected that share their beginning",
        lambda row: has(row, *SIDES),
        trl_implicit,
        SIDES,
    ),
    Format(
        "kto",
        "answers with true or false in label",
        is_tagged,
        kto,
        (*messages_format.uses, *sharegpt_format.uses, *alpaca_format.uses, *response_format.uses, *TAGS),
    ),
    sharegpt_format,
    messages_format,
    alpaca_format,
    response_format,
    Format(
        "prompts",
        f"a column of prompts ({', '.join(PROMPT_COLUMNS)})",
        lambda row: any(has(row, column) for column in PROMPT_COLUMNS),
        prompts,
        (*PROMPT_COLUMNS, "input", "system", "history"),
    ),
)
