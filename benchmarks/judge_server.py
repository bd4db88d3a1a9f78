"""The stand-in judge in a process of its own, for benchmarks that measure the judge's side alone."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from alignment.demo.stand_in_judge import StandInJudge


@dataclass
class Server:
    """A stand-in that runs elsewhere."""

    base_url: str
    _connection: Connection

    def log(self) -> dict[str, Any]:
        """What it did so far: attempts and answers by request hash, faults by name."""
        self._connection.send("log")
        return json.loads(self._connection.recv())


@contextmanager
def judge_server(**settings: Any) -> Iterator[Server]:
    """A stand-in with these settings, see `StandInJudge`."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(theirs, settings), daemon=True)
    process.start()
    try:
        yield Server(ours.recv(), ours)
    finally:
        ours.send("stop")
        process.join(30)


def serve(connection: Connection, settings: dict[str, Any]) -> None:
    with StandInJudge(politeness, **settings) as judge:
        connection.send(judge.base_url)
        while connection.recv() == "log":
            log = judge.log
            connection.send(
                json.dumps({"attempts": log.attempts, "answered": log.answered, "faults": log.faults})
            )


def politeness(_prompt: str, text: str) -> float:
    return float(text.count("please"))
