"""The judge under fire: an endpoint that fails in every way, and a job that is killed with -9 and resumed.

The server's own log tells what was paid: a call that it answered, and whose answer the ledger holds, must never be
asked again. (An answer on its way at a kill is lost; that call is in the ledger as uncertain, and asked again.)

    python -m benchmarks.judge_faults [--quick] --json FILE
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from alignment.demo.stand_in_judge import MODEL, Faults, Manner
from benchmarks.judge_items import fill
from benchmarks.judge_server import judge_server
from benchmarks.record import Figure, run
from labeling.hashing import content_hash
from labeling.judge.config import JudgeConfig
from labeling.judge.job import run_judge
from labeling.schema import JudgeCall, Judgement
from labeling.store import Store

FAULTS = Faults(
    rate_limited=0.01, server_error=0.01, cut=0.01, slow=0.002, slow_seconds=4.0,
    refused=0.02, truncated=0.02, wrong_json=0.02, retry_after=0.05,
)  # fmt: skip
GARBAGE = Manner(garbage=0.02)


def measure(quick: bool) -> dict[str, Figure]:
    comparisons, kills = (200, 3) if quick else (10_000, 20)
    chance = random.Random(0)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "align.db")
        store = Store.open(path)
        fill(store, comparisons)
        with judge_server(faults=FAULTS, manner=GARBAGE, latency=0.02) as server:
            killed = 0
            while killed < kills:
                process = start(path, server.base_url)
                at_work = bool(process.stdout and process.stdout.readline())
                time.sleep(chance.uniform(0, 1 if quick else 4))
                if not at_work or process.poll() is not None:
                    raise RuntimeError(f"the job ended before kill {killed + 1}: give it more comparisons")
                process.kill()
                process.wait()
                killed += 1
            last = start(path, server.base_url)
            last.communicate()
            if last.returncode:
                raise RuntimeError(f"the last run ended with {last.returncode}")
            log = server.log()
        figures = outcome(store, log)
        store.engine.dispose()
    return (
        {"comparisons": comparisons, "kills": killed} | figures | {"seconds": round(time.monotonic() - begun)}
    )


def start(path: str, base_url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.judge_faults", "--job", path, base_url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def job(path: str, base_url: str) -> None:
    config = JudgeConfig(base_url=base_url, model=MODEL, concurrency=32, timeout_seconds=2.0, max_attempts=8)
    at_work = False

    def progress(_: int, **__: Any) -> None:
        nonlocal at_work
        if not at_work:
            print("at work", flush=True)
            at_work = True

    run_judge(Store.open(path), config, progress)


def outcome(store: Store, log: dict[str, Any]) -> dict[str, Figure]:
    """What the store holds against what the server says that it did."""
    answered: Counter[str] = Counter()
    uncertain: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    states: Counter[str] = Counter()
    with store.engine.connect() as connection:
        for state, request in connection.execute(select(JudgeCall.state, JudgeCall.request)):
            name = content_hash({k: v for k, v in request.items() if k not in ("base_url", "sample")})
            rows[name] += 1
            states[state] += 1
            answered[name] += state == "answered"
            uncertain[name] += state == "uncertain"
        outcomes = dict(
            connection.execute(select(Judgement.outcome, func.count()).group_by(Judgement.outcome))
            .tuples()
            .all()
        )
        judged = connection.execute(select(func.count(Judgement.comparison_id.distinct()))).scalar_one()
    labels, comparisons = store.counts()["labels"], store.counts()["comparisons"]
    paid: dict[str, int] = log["answered"]
    return {
        "paid_twice": sum(max(0, times - answered[name] - uncertain[name]) for name, times in paid.items())
        + sum(max(0, times - 1) for times in answered.values()),
        "unaccounted": (comparisons - judged)
        + abs(outcomes.get("verdict", 0) + outcomes.get("tie", 0) - labels)
        + sum(max(0, times - rows[name]) for name, times in log["attempts"].items())
        + states["intent"],
        "labels": labels,
        **{f"outcome.{name}": count for name, count in sorted(outcomes.items())},
        **{f"calls.{state}": count for state, count in sorted(states.items())},
        "lost_replies_asked_again": sum(max(0, times - 1) for times in paid.values()),
        **{f"faults.{name}": count for name, count in sorted(log["faults"].items())},
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        job(sys.argv[2], sys.argv[3])
    else:
        run("judge_faults", "Faults of every kind, and kills", measure)
