"""From message lists to token ids: the same rendering for training and for scoring."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from reward.errors import RewardError
from reward.scorer import Conversation
from reward.shared_prompt import common_prefix, row_length

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Reject = Callable[[dict[str, Any]], None]  # takes {"split", "row", "comparison_id", "reason"}
Ids = list[int]
COLUMNS = ("prompt", "chosen", "rejected", "p_chosen", "margin", "weight", "source", "annotator", "group")
SAME = COLUMNS[:-1]  # two rows that agree in these are one label twice


def conversation_ids(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> Ids:
    """Token ids of a whole conversation in the tokenizer's own chat template, which alone may add a BOS."""
    ids: Ids = tokenizer.apply_chat_template(list(conversation), tokenize=True, return_dict=False)
    return ids


def usable(pairs: Dataset, *, split: str, reject: Reject) -> Dataset:
    """The pairs whose labels can be learned from; each other one goes to `reject` with its reason.

    Adds `row`, the number that it had. Raises RewardError where columns are missing or nothing is left to learn from.
    """
    if missing := [name for name in COLUMNS if name not in pairs.column_names]:
        raise RewardError(f"the {split} pairs have no column {', '.join(missing)}")
    seen: set[str] = set()
    kept, repeated = [], 0
    for number, row in enumerate(pairs):
        reason = fault(row)
        key = json.dumps([row[name] for name in SAME], sort_keys=True)
        if not reason and key in seen:
            reason, repeated = "the same label again", repeated + 1
        if reason:
            reject(rejected(split, number, row, reason))
            continue
        seen.add(key)
        kept.append(number)
    if len(kept) == 1 and repeated:
        raise RewardError(
            f"all {repeated + 1} {split} pairs are one and the same: there is nothing to learn from"
        )
    if not kept:
        raise RewardError(
            f"no {split} pair has a usable label: {fault(pairs[0]) if len(pairs) else 'none given'}"
        )
    return with_column(pairs.select(kept), "row", kept)


def refuse_all_ties(pairs: Dataset) -> None:
    if all(p == 0.5 for p in pairs["p_chosen"]):
        raise RewardError(
            "every train pair is a tie (p_chosen 1/2): no side is ever better, so there is nothing to learn"
        )


def fault(row: Mapping[str, Any]) -> str | None:
    """Why a label cannot be learned from, or None."""
    if not within(row["p_chosen"], 0.5, 1.0):
        return "p_chosen is outside 0.5..1"
    for name in ("weight", "margin"):
        if not within(row[name], 0.0, math.inf):
            return f"{name} is negative or not a number"
    return None


def within(value: object, low: float, high: float) -> bool:
    """NaN and infinity are within nothing."""
    return isinstance(value, int | float) and math.isfinite(value) and low <= value <= high


def rejected(split: str, number: int, row: Mapping[str, Any], reason: str) -> dict[str, Any]:
    return {
        "split": split,
        "row": row.get("row", number),
        "comparison_id": row.get("comparison_id"),
        "reason": reason,
    }


def of_aspect(pairs: Dataset, name: str) -> Dataset:
    """The pairs that are rated on an aspect, the side that is better on it as `chosen`, its chance as `p_chosen`.

    Column `aspects`: for each pair the chance (0..1) that chosen is better on each aspect, or nothing of one.
    Raises RewardError if no pair is rated on it.
    """
    rated = [aspect_of(row, name) for row in pairs] if "aspects" in pairs.column_names else []
    found = [row for row in rated if row is not None]
    if not found:
        raise RewardError(f"no pair is rated on the aspect {name!r}: the column `aspects` has none of it")
    return type(pairs).from_list(found)


def aspect_of(row: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    p = (row["aspects"] or {}).get(name)
    if p is None:
        return None
    better, worse, chance = ("rejected", "chosen", 1 - p) if p < 0.5 else ("chosen", "rejected", p)
    return {**row, "chosen": row[better], "rejected": row[worse], "p_chosen": float(chance), "margin": 0.0}


def tokenize_pairs(
    pairs: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    split: str,
    reject: Reject,
    too_long: Literal["drop", "truncate"] = "drop",
) -> Dataset:
    """Adds `chosen_ids`, `rejected_ids`, `length` (of the longer side), `row_length` (of the pair with its prompt
    once), `extra_tokens` (chosen's less rejected's) and `cut` (tokens that the beginning of the prompt lost).

    A pair with a side over `max_length` loses the beginning of its prompt if `too_long` is "truncate" and both
    answers fit; otherwise it goes to `reject`. Raises RewardError if nothing is kept.
    """

    def tokenize(row: dict[str, Any]) -> dict[str, Any]:
        chosen = conversation_ids(tokenizer, row["prompt"] + row["chosen"])
        rejected = conversation_ids(tokenizer, row["prompt"] + row["rejected"])
        cut = max(len(chosen), len(rejected), max_length) - max_length if too_long == "truncate" else 0
        if cut:
            chosen, rejected = without_beginning(chosen, rejected, cut)
        return {
            "chosen_ids": chosen,
            "rejected_ids": rejected,
            "length": max(len(chosen), len(rejected)),
            "row_length": row_length(chosen, rejected),
            "extra_tokens": len(chosen) - len(rejected),
            "cut": cut,
        }

    tokenized = pairs.map(tokenize, desc=f"tokenizing {split}")
    kept = []
    for number, length in enumerate(tokenized["length"]):
        if length <= max_length:
            kept.append(number)
        else:
            what = "its answers alone are longer" if too_long == "truncate" else "longer"
            reject(rejected(split, number, pairs[number], f"{what} than {max_length} tokens"))
    if not kept:
        raise RewardError(
            f"every {split} pair is longer than {max_length} tokens: raise max_length (the longest has "
            f"{max(tokenized['length'], default=0)})"
        )
    return tokenized.select(kept)


def without_beginning(chosen: Ids, rejected: Ids, cut: int) -> tuple[Ids, Ids]:
    """Both sides without `cut` tokens of their prompt, taken after its first token, which may be a BOS.

    Where the prompt does not have so many, both are returned as they are.
    """
    if cut > common_prefix(chosen, rejected) - 1:
        return chosen, rejected
    return chosen[:1] + chosen[1 + cut :], rejected[:1] + rejected[1 + cut :]


def with_mean_weight_one(
    pairs: Dataset, source_weights: Mapping[str, float] = MappingProxyType({})
) -> Dataset:
    """Weights times the factor of their source, scaled to mean 1 over the data set, so that they move no learning rate.

    Raises RewardError for a source that no pair has, or if all weights are 0.
    """
    sources = sorted(set(pairs["source"]))
    if unknown := sorted(set(source_weights) - set(sources)):
        raise RewardError(
            f"source_weights: no pair is from {unknown[0]!r} (they are from {', '.join(sources)})"
        )
    raw = [w * source_weights.get(s, 1.0) for w, s in zip(pairs["weight"], pairs["source"], strict=True)]
    mean = sum(raw) / len(raw)
    if not mean > 0:
        raise RewardError("the pairs' weights sum to 0: nothing would be learned")
    return with_column(pairs, "weight", [weight / mean for weight in raw])


def with_column(pairs: Dataset, name: str, values: Sequence[object]) -> Dataset:
    """`pairs` with a column of these values, in place of one of that name."""
    kept = pairs.remove_columns(name) if name in pairs.column_names else pairs
    return kept.add_column(name, list(values))


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
