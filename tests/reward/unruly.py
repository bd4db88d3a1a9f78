"""A reward rule that a test can let fail at a moment of its choice: `trouble[n]` is called at the n-th call."""

from collections.abc import Callable

trouble: dict[int, Callable[[list[float]], object]] = {}
calls = [0]


def score(conversations):
    """The share of letters in the answer, until trouble."""
    calls[0] += 1
    texts = [conversation[-1]["content"] for conversation in conversations]
    scores = [sum(c.isalpha() for c in text) / max(len(text), 1) for text in texts]
    if calls[0] in trouble:
        return trouble[calls[0]](scores)
    return scores


def forget():
    """No trouble, and nothing was called."""
    trouble.clear()
    calls[0] = 0
