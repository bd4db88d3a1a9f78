"""Rows in tokens for DPO: the prompt once, then two answers to it, and what the label says of them.

Columns: prompt_ids, first_ids, second_ids, length (of all three), p_first, margin, weight. Of a pair the first answer
is the chosen one. Of a single answer (KTO) the second is an answer to another prompt, for the KL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from alignment.errors import AlignmentError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
Reject = Callable[[dict[str, Any]], None]


def tokenize_pairs(
    pairs: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, *, split: str, reject: Reject
) -> Dataset:
    """Pairs (columns of a preference dataset) in tokens; a side may have `max_length` tokens, prompt included.

    A pair that is longer, or whose sides are the same in tokens, goes to `reject` with the reason, and is not
    cut: a cut answer would lose its end, and with it what says that it ended.
    Raises AlignmentError if all of them do.
    """

    def tokenize(row: dict[str, Any]) -> dict[str, Any]:
        return answer_ids(tokenizer, row["prompt"], row["chosen"], row["rejected"])

    if not len(pairs):
        return pairs
    tokenized = pairs.map(tokenize, desc=f"tokenizing {split}").rename_column("p_chosen", "p_first")
    return fitting(tokenized, max_length, split=split, reject=reject)


def tokenize_answers(
    answers: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, *, split: str, reject: Reject
) -> Dataset:
    """Single answers (columns prompt, completion, p_good, weight, group) in tokens; otherwise as `tokenize_pairs`.

    The second answer is that of the row before which has another prompt, cut where it would not fit.
    """

    def tokenize(row: dict[str, Any]) -> dict[str, Any]:
        return answer_ids(tokenizer, row["prompt"], row["completion"])

    if not len(answers):
        return answers
    tokenized = answers.map(tokenize, desc=f"tokenizing {split}").rename_column("p_good", "p_first")
    kept = fitting(tokenized, max_length, split=split, reject=reject)
    first, others = kept["first_ids"], of_another_prompt(list(kept["group"]))

    def with_other(row: dict[str, Any], number: int) -> dict[str, Any]:
        other = first[others[number]][: max(1, max_length - len(row["prompt_ids"]))]
        return {"second_ids": other, "length": row["length"] + len(other), "margin": 0.0}

    return kept.map(with_other, with_indices=True, desc="answers to other prompts")


def of_another_prompt(groups: Sequence[str]) -> list[int]:
    """For each row the nearest one before it, round the end, of another group; the one before if there is none."""
    n = len(groups)
    found: list[int | None] = [None] * n
    for step in range(2 * n):  # twice round, so that the first rows know of the last ones
        here, before = step % n, (step - 1) % n
        found[here] = before if groups[before] != groups[here] else found[before]
    return [(i - 1) % n if other is None else other for i, other in enumerate(found)]


def balanced(p_good: Sequence[float], weight: Sequence[float]) -> tuple[list[float], list[float]]:
    """Labels and weights with which good and bad answers weigh the same in all, at mean weight 1.

    KTO wants so (Ethayarajh et al. 2024, eq. 9). With a factor for each of the two readings of a label,
    a p + b (1 - p) is the weight, and a p / (a p + b (1 - p)) the label, of the same loss.
    Raises AlignmentError where all answers are good, or all bad, or nothing has a weight.
    """
    if not sum(weight) > 0:
        raise AlignmentError("the answers' weights sum to 0: nothing would be learned")
    good = sum(w * p for p, w in zip(p_good, weight, strict=True))
    bad = sum(weight) - good
    if not (good > 0 and bad > 0):
        raise AlignmentError(
            f"every answer is labelled {'good' if good > 0 else 'bad'}: loss=kto learns from answers of both kinds"
        )
    a, b = (len(weight) / (2 * total) for total in (good, bad))
    factors = [a * p + b * (1 - p) for p in p_good]
    labels = [a * p / f for p, f in zip(p_good, factors, strict=True)]
    return labels, [w * f for w, f in zip(weight, factors, strict=True)]


def fitting(rows: Dataset, max_length: int, *, split: str, reject: Reject) -> Dataset:
    """The rows that can be trained on; the others go to `reject`. Raises AlignmentError if none is left."""
    kept, longest = [], 0
    for number, row in enumerate(
        rows.select_columns(["prompt_ids", "first_ids", "second_ids", "comparison_id"])
    ):
        sides = [row["first_ids"], row["second_ids"]] if row["second_ids"] is not None else [row["first_ids"]]
        length = len(row["prompt_ids"]) + max(map(len, sides))
        longest = max(longest, length)
        if reason := misfit(row["prompt_ids"], sides, length, max_length):
            reject({"split": split, "row": number, "comparison_id": row["comparison_id"], "reason": reason})
        else:
            kept.append(number)
    if not kept:
        what = "pair" if len(sides) == 2 else "answer"
        raise AlignmentError(
            f"no {split} {what} is left at max_length={max_length}: raise it (the longest {what} has "
            f"{longest} tokens)"
        )
    return rows.select(kept)


def misfit(prompt: list[int], sides: list[list[int]], length: int, max_length: int) -> str | None:
    """Why a row is left out, or None."""
    if len(sides) == 2 and sides[0] == sides[1]:
        return "both sides are the same in tokens"
    if length > max_length:
        return f"longer than {max_length} tokens"
    if not prompt or not all(sides):
        return "the chat template leaves no token to begin from"
    return None


def answer_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: list[Message],
    first: list[Message],
    second: list[Message] | None = None,
) -> dict[str, Any]:
    """The prompt's ids as far as the conversations begin with them, and the rest of each.

    Some templates end a lone prompt otherwise than a prompt with its answer; what differs then belongs
    to the answer, as TRL has it. second_ids is None without a second answer.
    """

    def render(messages: list[Message], **more: Any) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **more)
        return ids

    alone = render(prompt, add_generation_prompt=True)
    whole = [render(prompt + answer) for answer in (first, second) if answer is not None]
    shared = 0
    for tokens in zip(alone, *whole, strict=False):
        if len(set(tokens)) > 1:
            break
        shared += 1
    prompt_ids, rest = alone[:shared], [ids[shared:] for ids in whole]
    second_ids = rest[1] if second is not None else None
    return {
        "prompt_ids": prompt_ids,
        "first_ids": rest[0],
        "second_ids": second_ids,
        "length": shared + sum(map(len, rest)),
    }
