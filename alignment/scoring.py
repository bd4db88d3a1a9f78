"""`align reward eval` and `align reward score`: a trained reward model on pairs and on answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignment.console import progress_bar
from alignment.errors import AlignmentError
from alignment.files import write_text
from alignment.models import resolve
from alignment.preferences import is_messages, load_preferences
from alignment.prompts import read_rows

CHUNK = 2048  # conversations sorted by length together


def evaluate_reward(model: str, data: str) -> dict[str, Any]:
    """Accuracy with its interval, ECE and Brier score of a reward model on pairs, overall and by source.

    Of a snapshot the held-out pairs are taken, of a single file all. Pairs that cannot be scored are counted.
    """
    from datasets import concatenate_datasets

    from reward.evaluate import figures_by, pair_figures
    from reward.learned import LearnedScorer
    from reward.pairs import tokenize_pairs

    preferences = load_preferences(data)
    pairs = preferences.test
    if preferences.snapshot is None:
        pairs = concatenate_datasets([preferences.train, preferences.test])
    if not len(pairs):
        raise AlignmentError(f"snapshot {data} has no held-out pairs: take it with a larger test share")
    scorer = LearnedScorer(resolve(model))
    left_out = preferences.left_out()
    pairs = tokenize_pairs(
        pairs,
        scorer.tokenizer,
        scorer.context,
        split="test",
        reject=lambda row: left_out.update([row["reason"]]),
    )
    with progress_bar("scoring", 2 * len(pairs)) as advance:
        scores = scorer.score_tokens([*pairs["chosen_ids"], *pairs["rejected_ids"]], advance)
    labels = (scores[: len(pairs)], scores[len(pairs) :], pairs["p_chosen"], list(pairs["group"]))
    return {
        **pair_figures(*labels),
        "by_source": figures_by(list(pairs["source"]), *labels),
        "left_out": dict(left_out),
    }


def score_file(model: str, file: Path, out: Path) -> dict[str, Any]:
    """Adds `score` (raw) to each row of a JSONL or Parquet file and writes JSONL to `out`.

    A row has `messages`, or `prompt` and `completion`. Raises AlignmentError naming the first row without.
    """
    from reward.learned import LearnedScorer

    rows = read_rows(file)
    conversations = [conversation(row, f"{file}, row {number}") for number, row in enumerate(rows, 1)]
    if not rows:
        raise AlignmentError(f"{file} is empty: it needs rows with `messages`, or `prompt` and `completion`")
    scorer = LearnedScorer(resolve(model))
    scores: list[float] = []
    with progress_bar("scoring", len(rows)) as advance:
        for start in range(0, len(rows), CHUNK):
            scores += scorer.score(conversations[start : start + CHUNK], advance)
    lines = (
        json.dumps(row | {"score": score}, ensure_ascii=False)
        for row, score in zip(rows, scores, strict=True)
    )
    write_text(out, "".join(line + "\n" for line in lines))
    return {
        "rows": len(rows),
        "mean": sum(scores) / len(scores),
        "lowest": min(scores),
        "highest": max(scores),
    }


def conversation(row: dict[str, Any], place: str) -> list[dict[str, str]]:
    """The prompt and the answer of a row, as messages; texts stand for a user's and the assistant's message."""
    if is_messages(row.get("messages")):
        return list(row["messages"])
    prompt, completion = (
        as_messages(row.get("prompt"), "user"),
        as_messages(row.get("completion"), "assistant"),
    )
    if not prompt or not completion:
        raise AlignmentError(f"{place}: it needs `messages`, or `prompt` and `completion`")
    return prompt + completion


def as_messages(value: Any, role: str) -> list[dict[str, str]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return list(value) if is_messages(value) else []
