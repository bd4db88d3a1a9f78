"""The queue under fire: many processes claim and submit while one after the other is killed with -9.

In the end every item must have exactly as many labels as wanted, each by another person; no label that a process
was told is recorded may be missing, and none may be there twice.

    python -m benchmarks.labeling_race [--quick] --json FILE
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from sqlalchemy import select

from benchmarks.postgres import NotInstalled, postgres_server
from benchmarks.race_worker import label_until_done, wanted
from benchmarks.record import Figure, run
from labeling.queue.settings import QueueSettings, save_settings
from labeling.reads import effective
from labeling.schema import Label
from labeling.store import Store
from labeling.views import NewComparison, NewCompletion

SAME_PERSON = 0.5  # how often the successor of a killed process goes on as the same annotator
GIVE_UP = 900.0  # seconds


@dataclass(frozen=True)
class Race:
    items: int
    overlap: int
    processes: int
    kill_every: float  # seconds
    lease: float  # seconds


FULL = Race(items=2000, overlap=3, processes=16, kill_every=1.0, lease=5.0)
QUICK = Race(items=200, overlap=3, processes=6, kill_every=0.5, lease=2.0)


@dataclass
class Runner:
    """The processes that label, and the ones that took the place of those killed."""

    url: str
    told: Path  # one file for each process: what it was told is recorded
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    alive: list[tuple[str, ForkServerProcess]] = field(default_factory=list)
    started: int = 0

    def start(self, annotator: str = "") -> None:
        self.started += 1
        name = annotator or f"scripted-{self.started}"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.race_worker"])  # a successor is at work at once
        log = self.told / f"{self.started}.jsonl"
        process = context.Process(target=label_until_done, args=(self.url, name, str(log), self.started))
        process.start()
        self.alive.append((name, process))

    def kill_one(self) -> None:
        """Kill a process without warning, and let another go on, as the same annotator or as a new one."""
        annotator, process = self.alive.pop(self.chance.randrange(len(self.alive)))
        if process.pid and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        self.start(annotator if self.chance.random() < SAME_PERSON else "")


def race(url: str, setting: Race) -> dict[str, Figure]:
    """Run the race on an empty store at `url`."""
    store = Store.open(url)
    fill(store, setting)
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(url, Path(folder))
        begun = time.monotonic()
        for _ in range(setting.processes):
            runner.start()
        kills = 0
        while wanted(store):
            time.sleep(setting.kill_every)
            if time.monotonic() - begun > GIVE_UP:
                raise TimeoutError(f"{wanted(store)} labels are still wanted after {GIVE_UP:.0f} s")
            if wanted(store):
                runner.kill_one()
                kills += 1
        seconds = time.monotonic() - begun
        for annotator, process in runner.alive:
            process.join(60)
            if process.exitcode != 0:
                raise RuntimeError(f"the process of {annotator} ended with {process.exitcode}")
        told = [json.loads(line) for file in runner.told.iterdir() for line in whole_lines(file)]
    figures = outcome(store, setting, told)
    store.engine.dispose()
    return figures | {"kills": kills, "processes": setting.processes, "seconds": round(seconds, 1)}


def fill(store: Store, setting: Race) -> None:
    def answer(text: str) -> NewCompletion:
        return NewCompletion([{"role": "assistant", "content": text}])

    save_settings(store, QueueSettings(overlap=setting.overlap, lease_minutes=setting.lease / 60))
    store.add_comparisons(
        NewComparison([{"role": "user", "content": f"question {i}"}], [answer("one"), answer("two")])
        for i in range(setting.items)
    )


def whole_lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def outcome(store: Store, setting: Race, told: list[list[int]]) -> dict[str, Figure]:
    """What is in the store against what should be, and against what the processes were told."""
    query = select(Label.id, Label.comparison_id, Label.annotator_id, Label.purpose).where(effective())
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    counted = [row for row in rows if row.purpose == "label"]
    there = {(row.id, row.comparison_id, row.annotator_id) for row in rows}
    people: Counter[tuple[int, int]] = Counter((row.comparison_id, row.annotator_id) for row in rows)
    items = Counter(row.comparison_id for row in counted)
    return {
        "items": setting.items,
        "overlap": setting.overlap,
        "labels": len(counted),
        "complete": sum(count == setting.overlap for count in items.values()),
        "lost": len({tuple(one) for one in told} - there),
        "doubled": sum(count - 1 for count in people.values())
        + sum(max(0, count - setting.overlap) for count in items.values()),
        "late": len(rows) - len(counted),
        "annotators": len({row.annotator_id for row in rows}),
    }


def measure(quick: bool) -> dict[str, Figure]:
    setting = QUICK if quick else FULL
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as folder:
        figures |= named("sqlite", race(f"{folder}/align.db", setting))
    try:
        with postgres_server() as url:
            figures |= named("postgresql", race(url, setting))
    except NotInstalled as why:
        print(f"only on SQLite: {why}", file=sys.stderr)
    return figures


def named(database: str, figures: dict[str, Figure]) -> dict[str, Figure]:
    return {f"{database}.{name}": value for name, value in figures.items()}


if __name__ == "__main__":
    run("labeling_race", "16 processes label while one a second is killed", measure)
