"""Live: the policy of this moment answers a lead's prompt twice, and the pair is labelled like any other."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy import select

from labeling.errors import LabelingError
from labeling.queue.claim import Assigned, Choice, assign, find_assignment
from labeling.queue.leases import lease, lock_annotator
from labeling.queue.settings import settings_of
from labeling.queue.slots import hold, recount
from labeling.schema import Comparison
from labeling.store import Store
from labeling.views import Message, NewCompletion

ORIGIN = "live"


class Policy(Protocol):
    """Whatever answers prompts. Raises LabelingError if it cannot."""

    @property
    def name(self) -> str: ...

    def __call__(self, prompt: list[Message], count: int) -> list[str]:
        """So many answers to a prompt, drawn independently."""
        ...


def ask_live(store: Store, policy: Policy, prompt: list[Message], lead_id: int) -> Assigned:
    """Two answers to the prompt as a comparison in the lead's hands, to be submitted as any other.

    Raises LabelingError if the policy gives no two different answers, or if the lead has answered this very
    pair before.
    """
    answers = [text.strip() for text in policy(prompt, 2)]
    if not all(answers):
        raise LabelingError("the policy gave an empty answer: ask again, or ask something else")
    sides = [NewCompletion([{"role": "assistant", "content": text}], policy.name) for text in answers]
    added = store.add_comparison(prompt, sides, origin=ORIGIN)
    if added.comparison_id is None:
        raise LabelingError("the policy gave the same answer twice: ask again, or ask something else")
    return find_assignment(store, hand_over(store, added.comparison_id, lead_id), lead_id)


def hand_over(store: Store, comparison_id: int, lead_id: int) -> str:
    """Give the lead a lease on this comparison; its token."""
    with store.begin() as session:
        lock_annotator(session, lead_id)
        hold(session, [comparison_id])
        settings = settings_of(session)
        key = session.scalars(select(Comparison.key).where(Comparison.id == comparison_id)).one()
        assignment = assign(session, lead_id, Choice(comparison_id, key, "label", ORIGIN), settings)
        if assignment.state in ("submitted", "skipped"):
            raise LabelingError("the policy gave two answers that you have compared before: ask again")
        lease(assignment, settings, datetime.now(UTC))
        session.flush()
        recount(session, [comparison_id])
        return assignment.token
