"""What `align rollout` keeps of the answers to a prompt: all, the best and the worst, the best, or the good ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from alignment.answers import Answer

Keep = Literal["all", "pair", "best", "accepted"]
FOR_SFT = ("best", "accepted")
OUTCOMES = ("added", "duplicate", "identical", "empty", "tied", "truncated", "below", "failed")


def choose(answers: Sequence[Answer], keep: Keep, min_score: float | None) -> tuple[list[Answer], str]:
    """The answers that are kept, and the outcome: "added", or why none is kept.

    all: every text once. "empty" if one says nothing, "identical" if fewer than two are left of several.
    pair: best and worst by score; empty ones are passed over. "tied" if they score the same.
    best, accepted: the best, or each text once, of those that ended by themselves and score `min_score` or more
    (Dong et al. 2023; Yuan et al. 2023): "truncated" or "below" if there are none.
    """
    first: dict[str, Answer] = {}
    for answer in answers:
        first.setdefault(answer.text, answer)
    distinct = list(first.values())
    said = [answer for answer in distinct if answer.text.strip()]
    if not said or (keep == "all" and len(said) < len(distinct)):
        return [], "empty"
    if keep == "all":
        return (said, "added") if len(said) > 1 or len(answers) == 1 else ([], "identical")
    return best_and_worst(said) if keep == "pair" else good_ones(said, keep, min_score)


def best_and_worst(answers: Sequence[Answer]) -> tuple[list[Answer], str]:
    if len(answers) < 2:
        return [], "identical"
    best, worst = max(answers, key=score), min(answers, key=score)
    return ([best, worst], "added") if score(best) > score(worst) else ([], "tied")


def good_ones(answers: Sequence[Answer], keep: Keep, min_score: float | None) -> tuple[list[Answer], str]:
    ended = [answer for answer in answers if answer.finish_reason == "stop"]
    if not ended:
        return [], "truncated"
    good = [answer for answer in ended if min_score is None or score(answer) >= min_score]
    if not good:
        return [], "below"
    return ([max(good, key=score)] if keep == "best" else good), "added"


def score(answer: Answer) -> float:
    assert answer.score is not None  # noqa: S101 (what is chosen by score has been scored)
    return answer.score


def answers_of(row: dict[str, Any]) -> list[Answer]:
    """The answers in a row of answers.jsonl."""
    return [Answer(**answer) for answer in row["answers"]]


def sft_rows(rows: Iterable[dict[str, Any]], keep: Keep, min_score: float | None) -> list[dict[str, Any]]:
    """Conversations that `align sft` reads: `prompt`, `completion`, and the `score` that let them in."""
    return [
        {
            "prompt": row["prompt"],
            "completion": [{"role": "assistant", "content": answer.text}],
            "score": answer.score,
        }
        for row in rows
        for answer in choose(answers_of(row), keep, min_score)[0]
    ]


def preference_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs that `align dpo` and `align reward train` read, and `align data import` with their scores."""
    pairs = ((row["prompt"], choose(answers_of(row), "pair", None)[0]) for row in rows)
    return [
        {
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": pair[0].text}],
            "rejected": [{"role": "assistant", "content": pair[1].text}],
            "score_chosen": pair[0].score,
            "score_rejected": pair[1].score,
        }
        for prompt, pair in pairs
        if pair
    ]


def count(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What came of the prompts: every one is under one of OUTCOMES."""
    outcomes = Counter(row["outcome"] for row in rows)
    answers = [answer for row in rows for answer in row["answers"]]
    scores = [answer["score"] for answer in answers if answer["score"] is not None]
    return {
        "prompts": len(rows),
        **{outcome: outcomes[outcome] for outcome in OUTCOMES},
        "answers": len(answers),
        "repeated_answers": sum(
            len(row["answers"]) - len({answer["text"] for answer in row["answers"]}) for row in rows
        ),
        "truncated_answers": sum(answer["finish_reason"] == "length" for answer in answers),
        "tokens": sum(row["tokens"] for row in rows),
        **({"mean_score": sum(scores) / len(scores)} if scores else {}),
    }
