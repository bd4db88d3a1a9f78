"""One annotator of `benchmarks.labeling_race`, in a module of its own so that its processes start fast."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from sqlalchemy import exists, func, select

from labeling.queue.claim import claim
from labeling.queue.slots import open_
from labeling.queue.submit import Answer, submit
from labeling.schema import Assignment, Comparison
from labeling.store import Store

SENT_TWICE = 0.1  # how often an answer is sent again with its key, as after a lost connection


def label_until_done(url: str, annotator: str, log: str, seed: int) -> None:
    """One annotator at work: claims, answers, and writes down every label that it is told is recorded."""
    chance = random.Random(seed)
    store = Store.open(url)
    me = store.annotator(annotator, "scripted")
    with Path(log).open("ab", buffering=0) as told:
        while True:
            assigned = claim(store, me)
            if assigned is None:
                if not wanted(store):
                    return
                time.sleep(0.05)  # somebody else holds what is left; they may be killed
                continue
            answer = Answer("preference", choice=chance.randrange(2), strength=chance.randrange(4))
            key = str(chance.random())
            done = submit(store, assigned.token, me, answer, key=key)
            told.write(json.dumps([done.label_id, assigned.comparison.id, me]).encode() + b"\n")
            if chance.random() < SENT_TWICE and submit(store, assigned.token, me, answer, key=key) != done:
                raise RuntimeError("sending an answer again gave another label")


def wanted(store: Store) -> int:
    """How many comparisons still want labels, or have somebody who may label them."""
    held = exists().where(Assignment.comparison_id == Comparison.id, Assignment.state == "leased")
    with store.engine.connect() as connection:
        return connection.execute(select(func.count()).where(open_(Comparison) | held)).scalar_one()
