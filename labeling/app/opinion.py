"""What an AI judge thinks of an item, for the arm of an experiment in which annotators may see it."""

from __future__ import annotations

from sqlalchemy import select

from labeling.app.texts import Texts
from labeling.queue.claim import Assigned
from labeling.schema import Judgement
from labeling.store import Store

SHOWN_AI = "ai-shown"  # the arm of an assignment


def ai_opinion(store: Store, assigned: Assigned, words: Texts) -> str:
    """The newest judgement of a pair in one line, about the sides as shown; "" where there is none."""
    query = (
        select(Judgement.p_first)
        .where(Judgement.comparison_id == assigned.comparison.id, Judgement.p_first.is_not(None))
        .order_by(Judgement.id.desc())
        .limit(1)
    )
    with store.engine.connect() as connection:
        p_first = connection.execute(query).scalar()
    if p_first is None:
        return ""
    p_a = p_first if assigned.shown_order[0] == 0 else 1 - p_first
    if p_a == 0.5:
        return words.ai_opinion_even
    letter, sure = ("A", p_a) if p_a > 0.5 else ("B", 1 - p_a)
    return words.ai_opinion.format(letter=letter, percent=round(100 * sure))
