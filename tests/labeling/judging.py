"""What the tests of the judge share: comparisons of which one side is politer, and a way to look at tables."""

from __future__ import annotations

from sqlalchemy import select

from alignment.demo.stand_in_judge import MODEL, Manner
from labeling.judge.config import JudgeConfig
from labeling.views import NewComparison, NewCompletion

CLEAR = Manner(noise=0.0, first_bias=0.0, garbage=0.0)


def politeness(_prompt: str, text: str) -> float:
    return float(text.count("please"))


def fill(store, n, good="please come", bad="come"):
    """`n` comparisons; the better side is at position 0 in the even ones."""
    sides = [
        NewCompletion([{"role": "assistant", "content": good}]),
        NewCompletion([{"role": "assistant", "content": bad}]),
    ]
    store.add_comparisons(
        NewComparison(
            [{"role": "user", "content": f"Invite guest {i}."}], sides if i % 2 == 0 else sides[::-1]
        )
        for i in range(n)
    )


def config(server, **changes):
    return JudgeConfig(base_url=server.base_url, model=MODEL, **changes)


def rows(store, table):
    with store.begin() as session:
        found = session.scalars(select(table).order_by(table.id)).all()
        session.expunge_all()
    return found
