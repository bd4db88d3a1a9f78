"""What is kept of a prompt's answers, by hand."""

from __future__ import annotations

import pytest

from alignment.answers import Answer
from alignment.kept import choose, count


def answers(*said: tuple[str, float] | tuple[str, float, str]) -> list[Answer]:
    return [Answer(text, *reason or ["stop"], score=score) for text, score, *reason in said]


@pytest.mark.parametrize(
    ("keep", "said", "kept", "outcome"),
    [
        ("all", [("a", 1), ("b", 2)], ["a", "b"], "added"),
        ("all", [("a", 1), ("b", 2), ("a", 1)], ["a", "b"], "added"),
        ("all", [("a", 1), ("a", 1)], [], "identical"),
        ("all", [("a", 1), (" ", 1)], [], "empty"),
        ("all", [("a", 1)], ["a"], "added"),
        ("pair", [("a", 1), ("b", 3), ("c", 2), ("", 9)], ["b", "a"], "added"),
        ("pair", [("a", 1), ("b", 1)], [], "tied"),
        ("pair", [("a", 1), ("", 2)], [], "identical"),
        ("best", [("a", 1), ("b", 3), ("c", 9, "length")], ["b"], "added"),
        ("best", [("a", 1, "length")], [], "truncated"),
        ("best", [("a", -2)], [], "below"),
        ("best", [("", 1), ("\n", 1)], [], "empty"),
        ("accepted", [("a", 1), ("b", 0), ("c", -1), ("a", 1)], ["a", "b"], "added"),
        ("accepted", [("a", -1)], [], "below"),
    ],
)
def test_what_is_kept_and_why_not(keep, said, kept, outcome):
    chosen, why = choose(answers(*said), keep, None if keep == "pair" else 0.0)
    assert ([answer.text for answer in chosen], why) == (kept, outcome)


def test_every_prompt_and_answer_is_counted():
    def row(outcome, *texts, reason="stop"):
        said = [{"text": text, "finish_reason": reason, "score": None} for text in texts]
        return {"outcome": outcome, "answers": said, "tokens": 5}

    rows = [row("added", "a", "b", reason="length"), row("identical", "a", "a"), row("failed")]
    assert count([*rows, row("duplicate", "c", "d")]) == {
        "prompts": 4, "added": 1, "duplicate": 1, "identical": 1, "empty": 0, "tied": 0, "truncated": 0, "below": 0,
        "failed": 1, "answers": 6, "repeated_answers": 1, "truncated_answers": 2, "tokens": 20,
    }  # fmt: skip
