"""How close the judge comes to what an endpoint allows, and what it takes: processor and memory.

The stand-in answers after 100 ms and turns down what is more than 200 requests a second; the judge is told that
limit. Memory is the most of a process that judges 100,000 items against one that judges 1,000, without a limit; of
ten items nine repeat the texts of the first by other models, so that their answers are in the ledger by then, and the
measurement ends within minutes.

    python -m benchmarks.judge_throughput [--quick] --json FILE
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alignment.demo.stand_in_judge import MODEL
from benchmarks.judge_items import fill
from benchmarks.judge_server import judge_server
from benchmarks.record import Figure, run
from labeling.judge.config import JudgeConfig
from labeling.judge.job import run_judge
from labeling.store import Store

PER_SECOND, LATENCY = 200, 0.1
REPEATS = 10  # items with the same texts, where memory is measured


def measure(quick: bool) -> dict[str, Figure]:
    at_limit = 600 if quick else 6000
    small, large = (200, 2000) if quick else (1000, 100_000)
    with judge_server(latency=LATENCY, per_second=PER_SECOND) as server:
        limited = in_own_process(server.base_url, at_limit, 1, 60.0 * PER_SECOND)
    with judge_server() as server:
        few = in_own_process(server.base_url, small, REPEATS, None)
        many = in_own_process(server.base_url, large, REPEATS, None)
    return {
        "requests": limited["calls"],
        "requests_per_second": limited["calls"] / limited["seconds"],
        "allowed_per_second": PER_SECOND,
        "share_of_limit": limited["calls"] / limited["seconds"] / PER_SECOND,
        "cpu_cores": limited["cpu"] / limited["seconds"],
        "items_small": small,
        "items_large": large,
        "memory_small_mib": few["memory"],
        "memory_large_mib": many["memory"],
        "memory_growth": many["memory"] / few["memory"],
        "items_per_second": large / many["seconds"],
    }


def in_own_process(base_url: str, comparisons: int, repeats: int, per_minute: float | None) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.judge_throughput",
        "--judge",
        base_url,
        str(comparisons),
        str(repeats),
    ]
    done = subprocess.run([*command, json.dumps(per_minute)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def judge(base_url: str, comparisons: int, repeats: int, per_minute: float | None) -> dict[str, Any]:
    """Judge so many comparisons; seconds, processor seconds, the most memory (MiB) and calls of the job alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "align.db")
        # filled by another process, whose memory is not the judge's
        subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.judge_throughput",
                "--fill",
                path,
                str(comparisons),
                str(repeats),
            ],
            check=True,
        )
        store = Store.open(path)
        config = JudgeConfig(base_url=base_url, model=MODEL, requests_per_minute=per_minute)
        begun, used = time.perf_counter(), time.process_time()
        report = run_judge(store, config)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    if sum(report.outcomes.values()) != comparisons:
        raise RuntimeError(f"{comparisons} comparisons ended as {report.outcomes}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "cpu": cpu, "memory": memory, "calls": report.calls.attempts}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fill"]:
        fill(Store.open(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["--judge"]:
        print(json.dumps(judge(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5]))))
    else:
        run("judge_throughput", "The judge at its endpoint's limit", measure)
