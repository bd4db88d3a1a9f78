"""Reading single answers that are each called good or bad, for KTO; pairs are taken apart into such."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import AlignmentError
from alignment.preferences import TEST_SHARE, Preferences, is_messages, load_preferences, plain, within
from alignment.prompts import read_rows
from labeling.hashing import prompt_hash
from labeling.snapshot import draw

if TYPE_CHECKING:
    from datasets import Dataset


def load_unpaired(path: str | Path) -> Preferences:
    """Answers at `path`, with columns prompt, completion, p_good, weight, comparison_id and group.

    A snapshot, or a file of pairs: the chosen side is good with probability p_chosen, the rejected one with what is
    left. Any other file has rows with `prompt` and `completion`, or `messages`, and `label`: true, false, or the
    probability that the answer is good. A tenth of the prompts is held out; rows that cannot be learned from are
    left out with their reason. Raises AlignmentError if nothing is left.
    """
    from datasets import Dataset

    path = Path(path)
    rows = [] if path.is_dir() else read_rows(path)
    if path.is_dir() or any("chosen" in row for row in rows):
        pairs = load_preferences(path)
        return Preferences(taken_apart(pairs.train), taken_apart(pairs.test), pairs.snapshot, pairs.rejects)
    kept: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    rejects = []
    for number, row in enumerate(rows):
        answer = read_answer(row)
        if isinstance(answer, str):
            rejects.append({"split": None, "row": number, "comparison_id": None, "reason": answer})
            continue
        group = prompt_hash(answer["prompt"])
        split = "test" if draw(group, 0) < TEST_SHARE else "train"
        kept[split].append(answer | {"comparison_id": number, "group": group})
    if not kept["train"]:
        reasons = ", ".join(f"{n} x {why}" for why, n in Counter(r["reason"] for r in rejects).items())
        raise AlignmentError(f"{path} holds no answer to train on ({reasons or 'it is empty'})")
    test = Dataset.from_list(kept["test"]) if kept["test"] else Dataset.from_list(kept["train"]).select([])
    return Preferences(Dataset.from_list(kept["train"]), test, None, rejects)


def read_answer(row: dict[str, Any]) -> dict[str, Any] | str:
    """prompt, completion, p_good and weight of a row, or why it cannot be learned from."""
    if is_messages(row.get("messages")):
        prompt, completion = row["messages"][:-1], row["messages"][-1:]
    else:
        prompt, completion = (
            as_messages(row.get("prompt"), "user"),
            as_messages(row.get("completion"), "assistant"),
        )
    if not prompt or not completion:
        return "neither prompt and completion nor messages"
    if completion[-1]["role"] != "assistant":
        return "the last message is not the assistant's"
    if not any(message["content"].strip() for message in completion):
        return "completion is empty"
    if not within(row.get("label"), 0.0, 1.0):
        return "label is not true, false or a probability"
    if not within(row.get("weight", 1.0), 0.0, float("inf")):
        return "weight is negative or not a number"
    return {
        "prompt": plain(prompt),
        "completion": plain(completion),
        "p_good": float(row["label"]),
        "weight": float(row.get("weight", 1.0)),
    }


def as_messages(value: Any, role: str) -> list[dict[str, str]]:
    """Messages as they are, a text as one message of `role`; nothing for what is neither."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return value if is_messages(value) else []


def taken_apart(pairs: Dataset) -> Dataset:
    """Both sides of every pair as answers of their own."""
    return pairs.map(
        lambda batch: {
            "prompt": [p for p in batch["prompt"] for _ in range(2)],
            "completion": [
                side for pair in zip(batch["chosen"], batch["rejected"], strict=True) for side in pair
            ],
            "p_good": [q for p in batch["p_chosen"] for q in (p, 1 - p)],
            **{
                name: [v for v in batch[name] for _ in range(2)]
                for name in ("weight", "comparison_id", "group")
            },
        },
        batched=True,
        remove_columns=pairs.column_names,
    )
