"""From message lists to token ids: the same rendering for training and for scoring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from reward.errors import RewardError
from reward.scorer import Conversation

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Reject = Callable[[dict[str, Any]], None]  # takes {"split", "row", "comparison_id", "reason"}


def conversation_ids(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> list[int]:
    """Token ids of a whole conversation in the tokenizer's own chat template, which alone may add a BOS."""
    ids: list[int] = tokenizer.apply_chat_template(list(conversation), tokenize=True, return_dict=False)
    return ids


def tokenize_pairs(
    pairs: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, *, split: str, reject: Reject
) -> Dataset:
    """Adds `chosen_ids`, `rejected_ids` and `length`; a pair with a side over `max_length` goes to `reject` instead.

    Raises RewardError if nothing is kept.
    """

    def tokenize(row: dict[str, Any]) -> dict[str, Any]:
        chosen = conversation_ids(tokenizer, row["prompt"] + row["chosen"])
        rejected = conversation_ids(tokenizer, row["prompt"] + row["rejected"])
        return {"chosen_ids": chosen, "rejected_ids": rejected, "length": max(len(chosen), len(rejected))}

    tokenized = pairs.map(tokenize, desc=f"tokenizing {split}")
    kept = []
    for row, (length, comparison) in enumerate(
        zip(tokenized["length"], tokenized["comparison_id"], strict=True)
    ):
        if length <= max_length:
            kept.append(row)
        else:
            reason = f"longer than {max_length} tokens"
            reject({"split": split, "row": row, "comparison_id": comparison, "reason": reason})
    if not kept:
        raise RewardError(
            f"every {split} pair is longer than {max_length} tokens: raise max_length (the longest has "
            f"{max(tokenized['length'], default=0)})"
        )
    return tokenized.select(kept)


def with_mean_weight_one(pairs: Dataset) -> Dataset:
    """Weights scaled to mean 1 over the data set, so that they move no learning rate."""
    mean = sum(pairs["weight"]) / len(pairs)
    if not mean > 0:
        raise RewardError("the pairs' weights sum to 0: nothing would be learned")
    return pairs.map(lambda row: {"weight": row["weight"] / mean}, desc="scaling weights")


def length_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first; rows * longest stays within `batch_tokens`.

    A row longer than `batch_tokens` is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
