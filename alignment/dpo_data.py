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
    """Adds prompt_ids, chosen_ids, rejected_ids and length; a side may have `max_length` tokens, prompt included.

    A pair that is longer, or whose sides are the same in tokens, goes to `reject` with the reason, and is not
    cut: a cut answer would lose its end, and with it what says that it ended.
    Raises AlignmentError if all of them do.
    """

    def tokenize(row: dict[str, Any]) -> dict[str, Any]:
        ids = pair_ids(tokenizer, row["prompt"], row["chosen"], row["rejected"])
        return ids | {
            "length": len(ids["prompt_ids"]) + max(len(ids["chosen_ids"]), len(ids["rejected_ids"])),
            "same": ids["chosen_ids"] == ids["rejected_ids"],
        }

    if not len(pairs):
        return pairs
    tokenized = pairs.map(tokenize, desc=f"tokenizing {split}")
    kept = []
    labels = zip(tokenized["length"], tokenized["same"], tokenized["comparison_id"], strict=True)
    for number, (length, same, comparison) in enumerate(labels):
        if length <= max_length and not same:
            kept.append(number)
            continue
        reason = "both sides are the same in tokens" if same else f"longer than {max_length} tokens"
        reject({"split": split, "row": number, "comparison_id": comparison, "reason": reason})
    if not kept:
        raise AlignmentError(
            f"no {split} pair is left at max_length={max_length}: raise it (the longest pair has "
            f"{max(tokenized['length'])} tokens)"
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
