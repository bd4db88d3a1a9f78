"""Preference pairs in tokens for DPO: the prompt once, then what each side says after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from alignment.errors import AlignmentError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]


def tokenize_pairs(
    pairs: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    split: str,
    reject: Callable[[dict[str, Any]], None],
) -> Dataset:
    """Adds prompt_ids, chosen_ids and rejected_ids; a side may have `max_length` tokens, prompt included.

    A pair that is longer, or whose sides are the same in tokens, goes to `reject` with the reason, and is not
    cut: a cut answer would lose its end, and with it what says that it ended.
    Raises AlignmentError if nothing is kept of a data set that held something.
    """

    def tokenize(row: dict[str, Any]) -> dict[str, Any]:
        return pair_ids(tokenizer, row["prompt"], row["chosen"], row["rejected"])

    tokenized = pairs.map(tokenize, desc=f"tokenizing {split}")
    kept, longest = [], 0
    for number, row in enumerate(
        tokenized.select_columns(["prompt_ids", "chosen_ids", "rejected_ids", "comparison_id"])
    ):
        length = len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        longest = max(longest, length)
        reason = None
        if length > max_length:
            reason = f"longer than {max_length} tokens"
        elif row["chosen_ids"] == row["rejected_ids"]:
            reason = "both sides are the same in tokens"
        if reason:
            reject({"split": split, "row": number, "comparison_id": row["comparison_id"], "reason": reason})
        else:
            kept.append(number)
    if len(pairs) and not kept:
        raise AlignmentError(
            f"no {split} pair is left at max_length={max_length}: raise it (the longest pair has {longest} tokens)"
        )
    return tokenized.select(kept)


def pair_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: list[Message], chosen: list[Message], rejected: list[Message]
) -> dict[str, list[int]]:
    """The prompt's ids as far as both sides begin with them, and the rest of each side.

    Some templates end a lone prompt otherwise than a prompt with its answer; what differs then belongs
    to the answer, as TRL has it.
    """

    def render(messages: list[Message], **more: Any) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **more)
        return ids

    alone = render(prompt, add_generation_prompt=True)
    first, second = render(prompt + chosen), render(prompt + rejected)
    shared = 0
    for a, b, c in zip(alone, first, second, strict=False):
        if not a == b == c:
            break
        shared += 1
    return {"prompt_ids": alone[:shared], "chosen_ids": first[shared:], "rejected_ids": second[shared:]}
