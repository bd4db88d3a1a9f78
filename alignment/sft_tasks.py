"""A small suite of tasks that a model could do before it was tuned: questions with choices, and with exact answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.data_cleaning.words import plain
from alignment.errors import AlignmentError
from alignment.models import stop_token_ids
from alignment.prompts import read_rows
from alignment.sft_data import Encoded, Example, Message, as_messages, encode_one, render
from alignment.sft_losses import losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MULTIPLE_CHOICE, EXACT_MATCH = "multiple_choice", "exact_match"


@dataclass(frozen=True)
class Choice:
    """A question whose answer is one of `choices`, each encoded as a whole conversation; `right` is its place."""

    choices: list[Encoded]
    right: int


@dataclass(frozen=True)
class Question:
    """A question, up to where the model answers, and the answers that count."""

    prompt: list[int]
    answers: list[str]
    room: int  # tokens of the longest of them, and one to end with


@dataclass(frozen=True)
class Tasks:
    choices: list[Choice]
    questions: list[Question]


def read_tasks(path: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tasks:
    """The tasks at `path`: rows with `prompt` (or `question`) and `answer`.

    With `choices` (texts) the answer is one of them, or its place from 0; without, it is a text or a list of texts.
    Raises AlignmentError naming the row that is none of these, or longer than `max_length` tokens.
    """
    rows = read_rows(Path(path))
    if not rows:
        raise AlignmentError(
            f"{path} is empty: it needs rows with `prompt` and `answer`, some with `choices`"
        )
    tasks = Tasks([], [])
    for number, row in enumerate(rows, 1):
        place = f"{path}, row {number}"
        prompt = as_messages(row.get("prompt", row.get("question")), "user", f"{place}: `prompt`")
        if row.get("choices") is None:
            tasks.questions.append(as_question(prompt, row, place, tokenizer, max_length))
        else:
            tasks.choices.append(as_choice(prompt, row, place, tokenizer, max_length))
    return tasks


def as_choice(
    prompt: list[Message],
    row: dict[str, Any],
    place: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> Choice:
    texts, answer = row["choices"], row.get("answer")
    if not isinstance(texts, list) or len(texts) < 2 or not all(isinstance(text, str) for text in texts):
        raise AlignmentError(f"{place}: `choices` must be a list of two texts or more")
    if len(set(texts)) < len(texts):
        raise AlignmentError(f"{place}: two of the `choices` are the same")
    right = texts.index(answer) if answer in texts else answer
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(texts):
        raise AlignmentError(
            f"{place}: `answer` must be one of the choices or its place from 0, not {answer!r}"
        )
    choices = []
    for text in texts:
        encoded = encode_one(Example(prompt, [{"role": "assistant", "content": text}]), tokenizer, max_length)
        if isinstance(encoded, str):
            raise AlignmentError(f"{place}: {encoded}")
        choices.append(encoded)
    return Choice(choices, right)


def as_question(
    prompt: list[Message],
    row: dict[str, Any],
    place: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> Question:
    answers = [row["answer"]] if isinstance(row.get("answer"), str) else row.get("answer")
    if (
        not isinstance(answers, list)
        or not answers
        or not all(isinstance(a, str) and a.strip() for a in answers)
    ):
        raise AlignmentError(f"{place}: `answer` must be a text or a list of texts; or add `choices`")
    ids = render(tokenizer, prompt, add_generation_prompt=True)
    room = 1 + max(len(tokenizer.encode(answer, add_special_tokens=False)) for answer in answers)
    if len(ids) + room > max_length:
        raise AlignmentError(f"{place}: prompt and answer longer than max_length ({max_length} tokens)")
    return Question(ids, answers, room)


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Tasks, rows: int
) -> dict[str, float]:
    """The share of right answers: of each kind that there is, and "accuracy" of all. rows: a forward."""
    model.eval()
    right = {MULTIPLE_CHOICE: chosen(model, tasks.choices, rows)} if tasks.choices else {}
    if tasks.questions:
        right[EXACT_MATCH] = matched(model, tokenizer, tasks.questions, rows)
    everything = [one for some in right.values() for one in some]
    return {
        "accuracy": sum(everything) / len(everything),
        **{kind: sum(some) / len(some) for kind, some in right.items()},
    }


def chosen(model: PreTrainedModel, choices: Sequence[Choice], rows: int) -> list[bool]:
    """Whether the right choice is the likeliest by its mean log-probability a token, so that length does not count."""
    found = iter(losses(model, [encoded for choice in choices for encoded in choice.choices], rows))
    outcomes = []
    for choice in choices:
        of_each = [next(found) for _ in choice.choices]
        outcomes.append(of_each.index(min(of_each)) == choice.right)
    return outcomes


def matched(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], rows: int
) -> list[bool]:
    """Whether the greedy answer is one that counts, but for case, white space and a full stop at its end."""
    import torch

    device = next(model.parameters()).device
    stops = list(stop_token_ids(model, tokenizer))
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        rows = 1  # padding between a trained prompt and the question would be read as such
    outcomes = []
    for begin in range(0, len(questions), rows):
        batch = questions[begin : begin + rows]
        width = max(len(question.prompt) for question in batch)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, question in enumerate(batch):
            ids[row, width - len(question.prompt) :] = torch.tensor(question.prompt)
            mask[row, width - len(question.prompt) :] = 1
        with torch.no_grad():
            answers = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=max(question.room for question in batch),
                do_sample=False,
                use_cache=True,
                eos_token_id=stops,
                pad_token_id=tokenizer.pad_token_id,
            )[:, width:]
        said = tokenizer.batch_decode(answers, skip_special_tokens=True)
        outcomes += [
            normal(text) in map(normal, question.answers) for text, question in zip(said, batch, strict=True)
        ]
    return outcomes


def normal(text: str) -> str:
    return plain(text).casefold().rstrip(".。 ")
