"""A team at work: 100 simulated annotators label in the app, over HTTP, while everything runs on two cores.

`align label` runs as a process of its own over a SQLite store of some thousands of comparisons (Markdown of one to
two kilobytes an answer). Each simulated annotator has an account, a session and connections of their own, opens
the page, and then answers and takes the next item as a browser does; see `benchmarks.simulated_annotator`.
They think for 5 seconds on average (exponentially distributed, 2 in a quick run), so that a hundred of them send
some 20 answers a second: several times what a hundred people do who read before they choose.

`p50_s`, `p95_s` and `slowest_s` are of the time from sending an answer until the next item is there, saved,
claimed and rendered; what the browser does with it afterwards is not in it. Beside that it measures how long
`align label` takes to come up on a store of a million comparisons, with how much memory, and how the cost of the
next item grows from ten thousand comparisons to a million (`benchmarks.next_item`).

    python -m benchmarks.labeling_load [--quick] --json FILE
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import httpx
import psutil

from benchmarks.next_item import claim_growth, filled
from benchmarks.record import Figure, run
from benchmarks.simulated_annotator import PAGE, Day, Pace, label_all_day
from labeling.app.identity import COOKIE
from labeling.people.accounts import create_account
from labeling.people.sessions import open_session
from labeling.store import Store
from labeling.views import Message, NewComparison, NewCompletion

CORES = 2  # for the server and the annotators together
PATIENCE = 120.0  # seconds for a server to come up
TEXT = (
    "answer because reader model the of water which river short careful table small number first then value "
    "between result would every garden people while explain simple longer again morning given question"
)
WORDS = TEXT.split()


@dataclass(frozen=True)
class Load:
    annotators: int
    comparisons: int
    pace: Pace


FULL = Load(annotators=100, comparisons=5000, pace=Pace(seconds=120, thinking=5, arriving=10))
QUICK = Load(annotators=10, comparisons=300, pace=Pace(seconds=8, thinking=2, arriving=1))


@dataclass(frozen=True)
class Server:
    """`align label`, running."""

    url: str
    process: psutil.Process
    seconds: float  # from the command to the first answer


@contextmanager
def label_server(store: Path) -> Iterator[Server]:
    """`align label` over a store, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    align = Path(sys.executable).with_name("align")
    begun = time.perf_counter()
    process = subprocess.Popen(
        [align, "label", "--store", store, "--port", str(port)], stdout=subprocess.DEVNULL
    )
    try:
        with httpx.Client() as client:
            while not answers(client, f"{url}/health"):
                if process.poll() is not None or time.perf_counter() - begun > PATIENCE:
                    raise RuntimeError("`align label` did not come up")
                time.sleep(0.02)
        yield Server(url, psutil.Process(process.pid), time.perf_counter() - begun)
    finally:
        process.terminate()
        process.wait()


def answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == 200
    except httpx.TransportError:
        return False


def measure_load(folder: Path, load: Load) -> dict[str, Figure]:
    """What the annotators saw of a server, and whether every answer that was saved is there."""
    path = folder / "load.db"
    store = Store.open(str(path))
    store.add_comparisons(conversations(load.comparisons))
    cookies = [enter(store, f"simulated-{number:03}") for number in range(load.annotators)]
    with label_server(path) as server:
        httpx.get(f"{server.url}{PAGE}", cookies={COOKIE: cookies[0]}, timeout=PATIENCE)  # until it is built
        before, begun = sum(server.process.cpu_times()[:2]), time.perf_counter()
        days = asyncio.run(label_together(server.url, cookies, load.pace))
        passed = time.perf_counter() - begun
        busy = (sum(server.process.cpu_times()[:2]) - before) / passed
        memory = megabytes(server.process)
    kept = store.counts()["labels"]
    store.engine.dispose()
    waited = [one for day in days for one in day.waited]
    errors = [error for day in days for error in day.errors]
    for error in sorted(set(errors)):
        print(error, file=sys.stderr)
    return {
        "annotators": load.annotators,
        "thinking_s": load.pace.thinking,
        "answers": len(waited),
        "answers_per_s": len(waited) / passed,
        "p50_s": percentile(waited, 50),
        "p95_s": percentile(waited, 95),
        "slowest_s": max(waited),
        "open_p95_s": percentile([one for day in days for one in day.opened], 95),
        "errors": len(errors),
        "lost": sum(day.saved for day in days) - kept,
        "server_cores": busy,
        "server_rss_mb": memory,
    }


async def label_together(url: str, cookies: list[str], pace: Pace) -> list[Day]:
    days = (label_all_day(url, cookie, pace, random.Random(i)) for i, cookie in enumerate(cookies))
    return await asyncio.gather(*days)


def percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def enter(store: Store, name: str) -> str:
    """The cookie of somebody new who is signed in."""
    return open_session(store, create_account(store, name, by=None).id)


def conversations(count: int) -> Iterator[NewComparison]:
    """Comparisons of answers in Markdown, every third after a dialogue."""
    chance = random.Random(0)
    for number in range(count):
        prompt: list[Message] = [{"role": "user", "content": f"{number}: {prose(chance, 30)}"}]
        for _ in range(3 if number % 3 == 0 else 0):
            prompt.append({"role": "assistant", "content": prose(chance, 60)})
            prompt.append({"role": "user", "content": prose(chance, 20)})
        yield NewComparison(prompt, [NewCompletion(markdown(chance)) for _ in range(2)])


def markdown(chance: random.Random) -> list[Message]:
    """An answer of one to two kilobytes, with what people write in answers."""
    points = "\n".join(f"- **{chance.choice(WORDS)}**: {prose(chance, 12)}" for _ in range(4))
    code = "\n".join(f"    value_{i} = {chance.choice(WORDS)}({i})" for i in range(8))
    table = "\n".join(f"| {chance.choice(WORDS)} | `{chance.random():.3f}` |" for _ in range(4))
    parts = [
        prose(chance, chance.randrange(40, 120)),
        f"## {prose(chance, 4)}\n\n{points}",
        f"```python\ndef {chance.choice(WORDS)}():\n{code}\n```",
        f"| what | how much |\n|---|---|\n{table}",
        f"So $x^2 + {chance.randrange(9)}x$ it is. {prose(chance, 30)}",
    ]
    return [{"role": "assistant", "content": "\n\n".join(parts)}]


def prose(chance: random.Random, words: int) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(words)) + "."


def measure_start(path: Path) -> dict[str, Figure]:
    """How long `align label` takes until it answers, and until the first page is there; the most memory it took."""
    store = Store.open(str(path))
    cookie = enter(store, "simulated-first")
    store.engine.dispose()
    with label_server(path) as server:
        begun = time.perf_counter()
        page = httpx.get(f"{server.url}{PAGE}", cookies={COOKIE: cookie}, timeout=PATIENCE)
        page.raise_for_status()
        waited = time.perf_counter() - begun
        return {
            "start_seconds": server.seconds,
            "start_page_seconds": server.seconds + waited,
            "start_rss_mb": megabytes(server.process),
        }


def megabytes(process: psutil.Process) -> float:
    """The memory that a process holds; what it has loaded it keeps, so this is close to the most it took."""
    return float(process.memory_info().rss) / 1e6


def measure(quick: bool) -> dict[str, Figure]:
    if hasattr(os, "sched_setaffinity"):  # what is started from here runs on the same cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = measure_load(folder, QUICK if quick else FULL)
        many = 50_000 if quick else 1_000_000
        stores = [filled(str(folder / f"{count}.db"), count) for count in (10_000, many)]
        figures |= {"start_comparisons": many} | measure_start(folder / f"{many}.db")
        figures |= claim_growth(*stores)
        for store in stores:
            store.engine.dispose()
    return figures


if __name__ == "__main__":
    run("labeling_load", "100 simulated annotators label in the app on two cores", measure)
