"""Deliveries by hand: right ones pass, and stale, wrong and mixed ones are told with their numbers."""

from __future__ import annotations

import math

import pytest

from rollout import Completion, RolloutError
from rollout.delivery import Delivery, check_delivery, require_version

TOKENS = (7, 8, 9)


def said(*logprobs: float, version: int = 3, tokens: tuple[int, ...] = TOKENS) -> Completion:
    return Completion(tokens, logprobs, "length", version)


def test_the_gap_is_the_largest_difference():
    delivery = Delivery(said(-1.0, -2.0, -3.0), [-1.0005, -2.0, -2.9999])
    assert check_delivery(delivery, 3, 1e-3) == pytest.approx(5e-4)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_no_number_never_passes(broken):
    with pytest.raises(RolloutError, match="off by inf nats"):
        check_delivery(Delivery(said(-1.0, broken, -3.0), [-1.0, -2.0, -3.0]), 3, 1e9)


def test_a_wrong_policy_is_told_with_its_numbers():
    with pytest.raises(RolloutError) as error:
        check_delivery(Delivery(said(-1.0, -2.0, -3.0), [-1.0, -2.5, -3.0], [-7.0, -7.0, -7.0]), 3, 1e-3)
    for word in ("version 3", "off by 0.5 nats", "tolerance 0.001", "-1, -2, -3", "-1, -2.5, -3"):
        assert word in str(error.value)


def test_an_adapter_that_is_not_there_is_the_reference():
    delivery = Delivery(said(-1.0, -2.0, -3.0), [-1.5, -2.0, -3.0], [-1.0001, -2.0, -3.0])
    with pytest.raises(RolloutError, match=r"answers as the reference.*off by 0.0001 nats.*off by 0.5 nats"):
        check_delivery(delivery, 3, 1e-3)


def test_a_stale_policy_is_seen_below_the_tolerance():
    last = Delivery(said(-1.0, -2.0, -3.0, version=2), [-1.0, -2.0, -3.0])
    stale = Delivery(said(-1.0, -2.0, -3.0), [-1.0, -2.0005, -3.0])
    assert check_delivery(stale, 3, 1e-3) == pytest.approx(5e-4)
    with pytest.raises(RolloutError, match=r"still answers as version 2.*moved by 0.0005 nats"):
        check_delivery(stale, 3, 1e-3, last)


@pytest.mark.parametrize(
    "now",
    [
        Delivery(said(-1.0, -2.0, -3.0), [-1.0, -2.00005, -3.0]),  # the trainer stood still
        Delivery(said(-1.0, -2.0004, -3.0), [-1.0, -2.0005, -3.0]),  # the engine has moved with it
        Delivery(said(-1.0, -2.0, -3.0, tokens=(7, 8, 1)), [-1.0, -2.0005, -3.0]),
    ],
)
def test_what_is_not_stale(now):
    last = Delivery(said(-1.0, -2.0, -3.0, version=2), [-1.0, -2.0, -3.0])
    assert check_delivery(now, 3, 1e-3, last) <= 1e-3


def test_an_answer_of_another_version_is_refused():
    with pytest.raises(RolloutError, match="has version 2 of the policy, not 3"):
        check_delivery(Delivery(said(-1.0, version=2, tokens=(7,)), [-1.0]), 3, 1e-3)
    require_version([said(-1.0, version=3)], 3)
    require_version([said(-1.0, version=3), said(-2.0, version=3)])
    with pytest.raises(RolloutError, match="1 of 3 answers are from version 2 of the policy, not from 3"):
        require_version([said(-1.0, version=version) for version in (3, 2, 3)])
    with pytest.raises(RolloutError, match="1 of 2 answers are from version 2 of the policy, not from 3"):
        require_version([said(-1.0, version=3), said(-1.0, version=2)], 3)
