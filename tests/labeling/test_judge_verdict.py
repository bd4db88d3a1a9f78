"""Two readings become one judgement, in stored order."""

from __future__ import annotations

import pytest

from labeling.judge.parsing import ReplyReading
from labeling.judge.verdict import Seen, of_pair


def combine(readings, tie_band):
    """Of one reply in either order."""
    return of_pair(
        [Seen(order, one) for order, one in zip(((0, 1), (1, 0)), readings, strict=True)], tie_band
    )


def read(label, p_a, mass=None):
    return ReplyReading("tie" if label == "C" else "verdict", p_a, label, mass)


@pytest.mark.parametrize(
    ("first", "swapped", "outcome", "p_first", "consistent"),
    [
        # stored side 0 is A in the first reading and B in the second
        (read("A", 0.9), read("B", 0.2), "verdict", 0.85, True),  # (0.9 + (1 - 0.2)) / 2
        (read("A", 0.9), read("A", 0.7), "verdict", 0.6, False),  # (0.9 + 0.3) / 2: it likes what comes first
        (read("A", 1.0), read("A", 1.0), "tie", 0.5, False),
        (read("C", 0.5), read("C", 0.5), "tie", 0.5, True),
        (read("A", 1.0), read("C", 0.5), "verdict", 0.75, False),
        (read("B", 0.4), read("A", 0.5), "tie", 0.45, True),  # on the edge of the band
        (read("B", 0.3), read("A", 0.8), "verdict", 0.25, True),
    ],
)
def test_mean_over_orders(first, swapped, outcome, p_first, consistent):
    verdict = combine((first, swapped), tie_band=0.05)
    assert (verdict.outcome, verdict.order_consistent) == (outcome, consistent)
    assert verdict.p_first == pytest.approx(p_first)


def test_the_smaller_label_mass_is_kept():
    assert combine((read("A", 0.9, 0.99), read("B", 0.1, 0.5)), 0.05).label_mass == 0.5


def test_one_failure_is_no_verdict():
    failure = ReplyReading("unparsed", reason="no single verdict in: hm")
    verdict = combine((read("A", 0.9), failure), 0.05)
    assert (verdict.outcome, verdict.p_first, verdict.order_consistent) == ("unparsed", None, None)
    assert verdict.reason == "side 1 shown first: unparsed: no single verdict in: hm"


def test_what_can_be_asked_again_names_the_failure():
    failures = (ReplyReading("refused", reason="no"), ReplyReading("api_error", reason="500: down"))
    verdict = combine(failures, 0.05)
    assert verdict.outcome == "api_error"
    assert verdict.reason == "side 0 shown first: refused: no; side 1 shown first: api_error: 500: down"
