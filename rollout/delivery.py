"""Was the policy delivered? What an engine says of a probe prompt, held against what the trainer says of it.

An engine that samples from a copy of the weights goes on happily with an old one, or with none of an adapter at all.
Nothing in its answers shows that; their log-probabilities do. Pure functions of numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rollout.errors import RolloutError
from rollout.types import Completion, Sampling

PROBE = Sampling(max_new_tokens=8, temperature=0.0)  # greedy: log-probabilities are the policy's own
# nats between two exact engines' log-probabilities; a logit of 16 is a multiple of 1/64 in float16, 1/8 in bfloat16
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 0.15}


@dataclass(frozen=True)
class Delivery:
    """One probe, after a sync.

    said: the engine's greedy answer to the probe prompt, which carries the version.
    expected: the log-probabilities of its tokens by the policy that was to be delivered, in nats.
    reference: the same by the policy that training started from, where it is known.
    """

    said: Completion
    expected: Sequence[float]
    reference: Sequence[float] | None = None

    @property
    def gap(self) -> float:
        """The largest difference of a token's log-probability, in nats; inf if one is not a number."""
        return largest_difference(self.said.logprobs, self.expected)


def check_delivery(delivery: Delivery, version: int, tolerance: float, last: Delivery | None = None) -> float:
    """The gap in nats. Raises RolloutError, with the numbers, if the engine does not have `version` of the policy.

    last: the delivery before, by which an engine is caught that goes on with its policy although the change is
    smaller than `tolerance`: it says the very numbers again while the trainer's have moved.
    """
    gap, said = delivery.gap, delivery.said
    if said.policy_version != version:
        raise RolloutError(f"the engine has version {said.policy_version} of the policy, not {version}")
    found = f"off by {gap:.2g} nats in the probe's log-probabilities (tolerance {tolerance:.2g})"
    if last and repeats(delivery, last, tolerance):
        moved = largest_difference(delivery.expected, last.expected)
        raise RolloutError(
            f"version {version} of the policy was not delivered: the engine still answers as version "
            f"{last.said.policy_version}, to the last digit, while the trainer has moved by {moved:.2g} nats; {found}"
        )
    if gap <= tolerance:
        return gap
    if delivery.reference is not None:
        off_reference = largest_difference(said.logprobs, delivery.reference)
        if off_reference <= tolerance:
            raise RolloutError(
                f"version {version} of the policy was not delivered: the engine answers as the reference, the policy "
                f"before training (off by {off_reference:.2g} nats); {found}"
            )
    raise RolloutError(
        f"version {version} of the policy was not delivered right: the engine is {found}, first tokens "
        f"{listed(said.logprobs)} against the trainer's {listed(delivery.expected)}; is it the same base, tokenizer "
        "and dtype?"
    )


def repeats(delivery: Delivery, last: Delivery, tolerance: float) -> bool:
    """Whether the engine said exactly what it said before, though the trainer has moved by a tenth of `tolerance`."""
    same = (delivery.said.token_ids, delivery.said.logprobs) == (last.said.token_ids, last.said.logprobs)
    return same and largest_difference(delivery.expected, last.expected) > tolerance / 10


def require_version(completions: Sequence[Completion], version: int | None = None) -> None:
    """Raises RolloutError if an answer comes from other weights than `version` of the policy, or than the rest."""
    if version is None:
        version = Counter(c.policy_version for c in completions).most_common(1)[0][0]
    odd = [c.policy_version for c in completions if c.policy_version != version]
    if odd:
        raise RolloutError(
            f"{len(odd)} of {len(completions)} answers are from version {odd[0]} of the policy, not from {version}: "
            "does another run deliver to the same engine?"
        )


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    differences = [abs(a - b) for a, b in zip(one, other, strict=True)]
    return max(differences, default=0.0) if all(map(math.isfinite, differences)) else math.inf


def listed(numbers: Sequence[float], most: int = 3) -> str:
    return ", ".join(f"{x:.4g}" for x in numbers[:most])
