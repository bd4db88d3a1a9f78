"""All figures of a store at once: what the lead's page shows and `/api/stats` gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, literal_column, select

from labeling.agreement import JudgeAgreement, PeopleAgreement, judges_against_people, people_agreement
from labeling.figures.pairs import PairKappa, kappas
from labeling.figures.quality import Answers, gold_accuracy, position_bias, read_gold, self_consistency
from labeling.figures.rates import Rate
from labeling.figures.strength import strength_histogram
from labeling.figures.table import PURPOSES, LabelTable, read_table
from labeling.figures.throughput import DayCount, Pace, pace, paces, per_day
from labeling.schema import Comparison, Flag
from labeling.store import Store
from labeling.views import PEOPLE


@dataclass(frozen=True)
class Dashboard:
    comparisons: int
    finished: int  # comparisons that have all the labels they need
    purposes: dict[str, int]  # people's labels by purpose
    today: int  # people's labels since midnight UTC
    judge_labels: int
    open_flags: int
    days: list[DayCount]
    pace: Pace | None  # of everyone
    paces: list[Pace]
    people: PeopleAgreement
    judges: JudgeAgreement
    kappas: list[PairKappa]
    gold: dict[str, Rate]  # by person; "" is everyone
    repeats: dict[str, Rate]
    position: dict[str, Rate]
    strength: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """As JSON can say it."""
        days = [asdict(one) | {"day": one.day.isoformat()} for one in self.days]
        rates = {
            name: {person or "everyone": rate.as_dict() for person, rate in getattr(self, name).items()}
            for name in ("gold", "repeats", "position")
        }
        return asdict(self) | {"days": days} | rates


def read_dashboard(store: Store) -> Dashboard:
    """The figures as of now. One pass over the labels; 10^5 of them take about a second."""
    with store.engine.connect() as connection:
        comparisons = connection.execute(select(func.count()).select_from(Comparison)).scalar_one()
        wanted = (
            select(func.count()).select_from(Comparison).where(Comparison.slots_left > literal_column("0"))
        )
        unfinished = connection.execute(wanted).scalar_one()  # the literal lets it use the queue's index
        flagged = select(func.count()).select_from(Flag).where(Flag.resolved_at.is_(None))
        flags = connection.execute(flagged).scalar_one()
    return dashboard(read_table(store), read_gold(store), comparisons, comparisons - unfinished, flags)


def dashboard(
    table: LabelTable,
    gold: Answers,
    comparisons: int,
    finished: int,
    open_flags: int,
) -> Dashboard:
    people = table.where(table.of_kind(*PEOPLE))
    timed = people.seconds[people.seconds >= 0]
    days = per_day(people)
    today = datetime.now(UTC).date()
    return Dashboard(
        comparisons,
        finished,
        {purpose: int(people.of_purpose(purpose).sum()) for purpose in PURPOSES},
        sum(one.labels for one in days if one.day == today),
        int(table.of_kind("judge").sum()),
        open_flags,
        days,
        pace("", timed) if len(timed) else None,
        paces(people),
        people_agreement(people),
        judges_against_people(table),
        kappas(people),
        gold_accuracy(people, gold),
        self_consistency(people),
        position_bias(people),
        strength_histogram(people),
    )
