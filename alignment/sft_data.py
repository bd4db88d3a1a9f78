"""From rows of prompts and answers to token ids and labels for SFT, with every row left out counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.errors import AlignmentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
IGNORED = -100  # the label of tokens that carry no loss


@dataclass(frozen=True)
class Example:
    """One conversation to learn its last turn from."""

    prompt: list[Message]
    completion: list[Message]


@dataclass(frozen=True)
class Encoded:
    """`input_ids` of the whole conversation; `labels` the same ids where there is loss, else -100."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Dropped:
    """A row that is not trained on, and why."""

    row: int
    reason: str


def read_examples(rows: Sequence[dict[str, Any]], place: str) -> Iterator[tuple[int, Example]]:
    """(row number from 1, example) of rows with `prompt` and `completion`, or with `messages`.

    Texts stand for one message. Of `messages` every assistant turn becomes an example, what came before
    it the prompt. Raises AlignmentError naming the row that has neither form.
    """
    for number, row in enumerate(rows, 1):
        if "messages" in row:
            messages = as_messages(row["messages"], "user", f"{place}, row {number}: `messages`")
            for i, message in enumerate(messages):
                if message["role"] == "assistant" and i > 0:
                    yield number, Example(messages[:i], [message])
        elif "prompt" in row and "completion" in row:
            yield (
                number,
                Example(
                    as_messages(row["prompt"], "user", f"{place}, row {number}: `prompt`"),
                    as_messages(row["completion"], "assistant", f"{place}, row {number}: `completion`"),
                ),
            )
        else:
            raise AlignmentError(
                f"{place}, row {number}: needs `prompt` and `completion`, or `messages`; it has "
                f"{', '.join(map(repr, row)) or 'nothing'}"
            )


def as_messages(value: Any, role: str, place: str) -> list[Message]:
    """Message lists as they are; a text as one message of `role`."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in value
    ):
        return [{"role": m["role"], "content": m["content"]} for m in value]
    raise AlignmentError(f"{place} must be a text or a list of {{role, content}} messages")


def encode(
    examples: Iterator[tuple[int, Example]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Encoded], list[Dropped]]:
    """Examples rendered with the chat template, loss on the completion only; and what was left out."""
    kept: list[Encoded] = []
    dropped: list[Dropped] = []
    for number, example in examples:
        encoded = encode_one(example, tokenizer, max_length)
        if isinstance(encoded, Encoded):
            kept.append(encoded)
        else:
            dropped.append(Dropped(number, encoded))
    return kept, dropped


def encode_one(example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded | str:
    """The example in tokens, or the reason why it cannot be trained on."""
    if not example.prompt:
        return "empty prompt"
    if not any(message["content"].strip() for message in example.completion):
        return "empty completion"
    prompt = render(tokenizer, example.prompt, add_generation_prompt=True)
    whole = render(tokenizer, example.prompt + example.completion)
    if whole[: len(prompt)] != prompt:
        return "the chat template renders the prompt differently once an answer follows"
    if len(prompt) >= max_length:
        return f"prompt longer than max_length ({max_length} tokens)"
    if len(whole) > max_length:
        return f"prompt and completion longer than max_length ({max_length} tokens)"
    return Encoded(whole, [IGNORED] * len(prompt) + whole[len(prompt) :])


def render(tokenizer: PreTrainedTokenizerBase, messages: list[Message], **kwargs: Any) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, return_dict=True, **kwargs)["input_ids"])
