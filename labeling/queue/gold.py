"""Gold: comparisons whose answer a lead declares. They are handed out to measure people, not to be labelled."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from labeling.errors import LabelingError
from labeling.messages import storable
from labeling.queue.slots import hold, recount
from labeling.schema import Comparison, Gold
from labeling.store import Store

VERDICTS = ("preference", "tie", "both_bad")


def set_gold(store: Store, comparison_id: int, verdict: str, p_first: float, note: str = "") -> None:
    """Declare the answer to a comparison, in stored order as in a label, in place of one declared before.

    Nobody is asked for an ordinary label on it any more; labels that it has stay. Raises LabelingError for a
    comparison that is not there and a verdict that cannot be.
    """
    if verdict not in VERDICTS or not 0 <= p_first <= 1 or (verdict == "preference") == (p_first == 0.5):
        raise LabelingError(
            f"cannot declare {verdict!r} with p_first {p_first}: a preference for one side, a tie or both_bad (0.5)"
        )
    with store.begin() as session:
        hold_one(session, comparison_id)
        session.merge(
            Gold(
                comparison_id=comparison_id,
                verdict=verdict,
                p_first=p_first,
                note=storable(note),
            )
        )
        session.flush()
        recount(session, [comparison_id])


def remove_gold(store: Store, comparison_id: int) -> None:
    """Take the declaration back: the comparison is labelled like others again."""
    with store.begin() as session:
        hold_one(session, comparison_id)
        session.execute(delete(Gold).where(Gold.comparison_id == comparison_id))
        recount(session, [comparison_id])


def gold_ids(store: Store) -> list[int]:
    """The comparisons with a declared answer."""
    with store.engine.connect() as connection:
        return list(connection.scalars(select(Gold.comparison_id).order_by(Gold.comparison_id)))


def hold_one(session: Session, comparison_id: int) -> None:
    if session.get(Comparison, comparison_id) is None:
        raise LabelingError(f"comparison {comparison_id} is not in the store")
    hold(session, [comparison_id])
