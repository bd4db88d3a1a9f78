"""From rows of prompts and answers to token ids and labels for SFT, with every row left out counted."""

from __future__ import annotations

import math
import operator
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import AlignmentError
from alignment.prompts import read_rows
from alignment.sft_config import SFTConfig, step_count
from alignment.sft_mixture import mixed, tempered
from alignment.sft_order import Stage, sequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
Rows = dict[str, list[dict[str, Any]]]  # of each data set
IGNORED = -100  # the label of tokens that carry no loss


@dataclass(frozen=True)
class Example:
    """One conversation to learn its last turn from."""

    prompt: list[Message]
    completion: list[Message]


@dataclass(frozen=True)
class Encoded:
    """`input_ids` of the whole conversation; `labels` the same ids where there is loss, else -100.

    row: where it stands in its file, from 1. hardness: what `order` sorts by.
    """

    input_ids: list[int]
    labels: list[int]
    row: int = 0
    hardness: float = 0.0


@dataclass(frozen=True)
class Dropped:
    """A row that is not trained on, and why; `data` names its set where there are several."""

    row: int
    reason: str
    data: str = ""


@dataclass(frozen=True)
class SFTData:
    """What is trained on, what the held-out loss is measured on, what was left out.

    examples: how many there are to train on; of several data sets, or in an order of their own, `train` holds them as
    often as they are drawn. steps: of the optimizer. stages: one after the other. shares: of each data set in the
    training.
    """

    train: list[Encoded]
    held_out: list[Encoded]
    dropped: list[Dropped]
    examples: int
    steps: int
    stages: list[Stage]
    shares: dict[str, float]


def read_data(config: SFTConfig) -> Rows:
    """The rows of each data set; a lone one is called by its path."""
    paths = {config.data: config.data} if isinstance(config.data, str) else config.data
    return {name: read_some(path) for name, path in paths.items()}


def read_some(path: str) -> list[dict[str, Any]]:
    rows = read_rows(Path(path))
    if not rows:
        raise AlignmentError(f"{path} is empty: it needs rows with `prompt` and `completion`")
    return rows


def texts_of(rows: Rows) -> list[str]:
    """What a new tokenizer learns from."""
    return [
        message["content"]
        for name, some in rows.items()
        for _, example in read_examples(some, name)
        for message in example.prompt + example.completion
    ]


def prepare(
    config: SFTConfig,
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    losses: Callable[[list[Encoded]], list[float]] | None = None,
) -> SFTData:
    """Examples in tokens, a seeded choice of each data set held out, and the others mixed and put in order.

    losses: what the base model makes of examples, for order=loss; without it (in a plan) that order is left open.
    """
    train: dict[str, list[Encoded]] = {}
    held_out: list[Encoded] = []
    left_out: list[Dropped] = []
    sizes = {name: len(some) for name, some in rows.items()}
    for name, some in rows.items():
        kept, dropped = encode(read_examples(some, name), tokenizer, config.max_length)
        if len(kept) < 2:
            reasons = ", ".join(f"{n} x {reason}" for reason, n in Counter(d.reason for d in dropped).items())
            raise AlignmentError(
                f"{name}: {len(kept)} of {len(some)} rows can be trained on, at least 2 are needed"
                + (f" ({reasons})" if reasons else "")
            )
        kept = [replace(one, hardness=hardness(config.order, one, some[one.row - 1], name)) for one in kept]
        random.Random(config.seed).shuffle(kept)
        count = min(max(1, config.held_out * sizes[name] // sum(sizes.values())), max(1, len(kept) // 10))
        train[name], held_out = kept[count:], held_out + kept[:count]
        left_out += [replace(one, data=name if len(rows) > 1 else "") for one in dropped]
    if config.order == "loss" and losses:
        found = iter(losses([one for some in train.values() for one in some]))
        train = {name: [replace(one, hardness=next(found)) for one in some] for name, some in train.items()}
    counts = {name: len(some) for name, some in train.items()}
    shares = config.weights or tempered(counts, config.temperature)
    examples = sum(counts.values())
    stages = [Stage(list(train), step_count(config, examples))]
    if config.sequential:
        by_hardness = None if config.order == "random" else operator.attrgetter("hardness")
        everything, stages = sequence(config, train, by_hardness)
    elif len(rows) == 1:
        (everything,) = train.values()
    else:
        everything = mixed(train, shares, config.batch_size * stages[0].steps, config.seed)
    steps = sum(stage.steps for stage in stages)
    return SFTData(everything, held_out, left_out, examples, steps, stages, shares)


def hardness(order: str, example: Encoded, row: dict[str, Any], place: str) -> float:
    """What `order` sorts by, where the example alone says it. Raises AlignmentError if a column holds no number."""
    if order == "length":
        return len(example.input_ids)
    kind, _, column = order.partition(":")
    if kind != "column":
        return 0.0
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AlignmentError(
            f"{place}, row {example.row}: order={order} needs a number in `{column}`, which "
            + ("is missing" if value is None else f"is {value!r}")
        )
    return value


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
            kept.append(replace(encoded, row=number))
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
