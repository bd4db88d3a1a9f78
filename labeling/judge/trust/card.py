"""The judge card: how far a judge can be trusted, measured where people labelled the same comparisons."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from sqlalchemy import func, select

from labeling.agreement import people_agreement
from labeling.errors import LabelingError
from labeling.judge.parsing import Outcome
from labeling.judge.trust.calibration import Calibration, Kind, cross_fitted, fit
from labeling.judge.trust.measures import Figure, bin_of, confidence_of, figure, measures, share
from labeling.judge.trust.overlap import Floats, Overlap, PeopleSaid, read_overlap, what_people_say
from labeling.schema import Annotator, JudgeCall, Judgement
from labeling.store import Store


@dataclass(frozen=True)
class Bin:
    """Verdicts of about the same confidence: how sure the judge was, and how often people agreed."""

    confidence: float
    accuracy: float
    of: int


@dataclass(frozen=True)
class Slice:
    by: str  # source, length, language
    name: str
    accuracy: Figure
    agreement: Figure


@dataclass(frozen=True)
class Card:
    judge: str
    judgements: int
    compared: int  # of them, where most people say the same
    outcomes: dict[str, int]
    figures: dict[str, Figure]
    ceiling: dict[str, Any]  # how far people agree with one another
    slices: list[Slice]
    reliability: list[Bin]
    calibrated: list[Bin]
    calibration: dict[str, Any] | None
    routed: dict[str, int]
    calls: dict[str, int]
    cost: float | None  # US dollars

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge_card(
    store: Store, judge: str | None = None, *, imports: bool = False, calibrate: Kind | None = None
) -> tuple[Card, Calibration | None]:
    """The card of a judge (of the only one, if it is not named), and with `calibrate` a calibration fitted anew.

    Raises LabelingError for a judge that is not in the store, and for a calibration without enough to fit on.
    """
    judge_id, name, meta = find_judge(store, judge)
    people, table = what_people_say(store, imports=imports)
    overlap = read_overlap(store, judge_id, meta.get("model", name.removeprefix("judge:")), people)
    if not len(overlap):
        raise LabelingError(f"{name} has judged no pair yet: `align judge run` does")
    known = ~np.isnan(overlap.people) & ~np.isnan(overlap.p)
    stored = meta.get("calibration")
    calibration = Calibration.from_meta(stored) if stored else None
    p = overlap.p
    if calibrate:
        both = ~np.isnan(overlap.share) & ~np.isnan(overlap.p)
        calibration = fit(calibrate, overlap.p[both], overlap.share[both])
        p = overlap.p.copy()
        p[both] = cross_fitted(calibrate, overlap.p[both], overlap.share[both], overlap.group[both])
    elif calibration:
        p = calibration.apply(overlap.p)
    counted = Counter(overlap.outcome.tolist())
    card = Card(
        name,
        len(overlap),
        int(known.sum()),
        {outcome: counted.get(outcome, 0) for outcome in get_args(Outcome)},
        {
            key: figure(overlap, measure)
            for key, measure in measures(overlap, p if calibration else None).items()
        },
        ceiling(
            overlap, people, people_agreement(table.where(np.isin(table.comparison, overlap.comparison)))
        ),
        list(slices(overlap)),
        bins(overlap, overlap.p),
        bins(overlap, p) if calibration else [],
        calibration.as_meta() if calibration else None,
        *spending(store, judge_id, meta),
    )
    return card, calibration


def find_judge(store: Store, judge: str | None) -> tuple[int, str, dict[str, Any]]:
    query = select(Annotator.id, Annotator.name, Annotator.meta).where(Annotator.kind == "judge")
    with store.engine.connect() as connection:
        judges = {
            name: (i, name, meta) for i, name, meta in connection.execute(query.order_by(Annotator.name))
        }
    name = judge if judge is None or judge.startswith("judge:") else f"judge:{judge}"
    if name in judges:
        return judges[name]
    if not judges:
        raise LabelingError("no judge has labelled in this store: `align judge run` does")
    if judge is None and len(judges) == 1:
        return next(iter(judges.values()))
    asked = "several judges have labelled, say which" if judge is None else f"there is no judge {judge!r}"
    raise LabelingError(f"{asked}; in the store (--judge NAME): {', '.join(judges)}")


def slices(o: Overlap) -> Iterator[Slice]:
    """Accuracy and agreement by source, language and length; a slice that is everything is left out."""
    thirds = np.quantile(o.length, [1 / 3, 2 / 3])
    length = np.array(["short", "medium", "long"])[np.searchsorted(thirds, o.length)]
    said = ~np.isnan(o.people)
    sided = said & (o.people != 0) & ~np.isnan(o.side) & (o.side != 0)
    for by, names in (("source", o.source), ("length", length), ("language", o.language)):
        present = np.unique(names)
        for name in present if len(present) > 1 else []:
            mine = names == name
            right = o.side == o.people
            yield Slice(
                by,
                str(name),
                figure(o, share(right, sided & mine)),
                figure(o, share(right, said & mine)),
            )


def bins(o: Overlap, p: Floats) -> list[Bin]:
    """For the reliability diagram."""
    of = ~np.isnan(o.people) & (o.people != 0) & ~np.isnan(p)
    confidence, right = (one[of] for one in confidence_of(o, p))
    place = bin_of(confidence)
    return [
        Bin(
            float(confidence[place == one].mean()),
            float(right[place == one].mean()),
            int((place == one).sum()),
        )
        for one in np.unique(place)
    ]


def ceiling(o: Overlap, people: dict[int, PeopleSaid], among: Any) -> dict[str, Any]:
    """How far people agree with one another on what the judge judged: no judge can be expected to do better."""
    pairs = [people[int(one)].agreeing for one in o.comparison if int(one) in people]
    several = [agreeing for agreeing in pairs if not math.isnan(agreeing)]
    return {
        "agreement": sum(several) / len(several) if several else None,
        "comparisons": len(several),
        "alpha": among.alpha,
        "alpha_interval": among.interval,
    }


def spending(
    store: Store, judge_id: int, meta: dict[str, Any]
) -> tuple[dict[str, int], dict[str, int], float | None]:
    """Judgements handed on to people by reason; attempts by state, and what they cost."""
    of_judge = Judgement.annotator_id == judge_id
    routed = select(Judgement.routed, func.count()).where(of_judge, Judgement.routed != "")
    calls: Counter[str] = Counter()
    cost: int | None = None
    with store.engine.connect() as connection:
        reasons = dict(connection.execute(routed.group_by(Judgement.routed)).tuples().all())
        for base_url, model in meta.get("endpoints", []):
            states = select(JudgeCall.state, func.count(), func.sum(JudgeCall.cost)).where(
                JudgeCall.model == model, JudgeCall.base_url == base_url
            )
            for state, count, paid in connection.execute(states.group_by(JudgeCall.state)):
                calls[state] += count
                cost = cost if paid is None else int(paid) + (cost or 0)
    return reasons, dict(calls), None if cost is None else cost / 10**12
