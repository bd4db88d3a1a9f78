"""`align dpo --rounds` killed with -9 while it answers, is judged, and trains, and resumed after each kill."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
from sqlalchemy import select

from alignment.cli import run as align
from alignment.demo.stand_in_judge import MODEL, StandInJudge
from labeling.schema import JudgeCall
from labeling.store import Store
from tests.alignment.cli_process import fork_server, start

ANSWERING, JUDGING, TRAINING = "answering", "judging", "training"
# of a run's files, those that say the same of equal runs; the others hold times, addresses, paths, and sets, whose
# order is that of a process
SAME = (
    "summary.json",
    "model/*.safetensors",
    "round-*/prompts.jsonl",
    "round-*/rollout/answers.jsonl",
    "round-*/snapshots/*/*",
    "round-*/dpo/summary.json",
    "round-*/dpo/metrics.jsonl",
    "round-*/dpo/model/*.safetensors",
)


@dataclass
class Rounds:
    """One run of `align dpo --rounds`, in processes that may be killed, with a judge of its own."""

    folder: Path
    words: list[str]
    server: StandInJudge
    context: ForkServerContext

    @property
    def arguments(self) -> list[str]:
        return [
            *self.words,
            f"run={self.folder}",
            f"online.judge.base_url={self.server.base_url}",
            "--resume",
        ]

    def start(self) -> ForkServerProcess:
        return start(self.context, self.arguments, self.log)

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def done(self, phase: str) -> int:
        """How much of a phase's work is done, of all rounds together."""
        if phase == JUDGING:
            return sum(self.server.log.answered.values())
        file = "rollout/answers.jsonl" if phase == ANSWERING else "dpo/metrics.jsonl"
        return sum(path.read_bytes().count(b"\n") for path in self.folder.glob(f"round-*/{file}"))

    def until(self, process: ForkServerProcess, happened: Callable[[], bool]) -> None:
        while not happened():
            assert process.exitcode is None, f"ended too early: {self.log.read_text()}"
            time.sleep(0.005)

    def kill_in(self, phase: str, process: ForkServerProcess, after: float) -> None:
        """Kill `process` so many seconds after it next did some of the phase's work."""
        before = self.done(phase)
        self.until(process, lambda: self.done(phase) > before)
        time.sleep(after)
        assert process.exitcode is None, f"ended before it was killed: {self.log.read_text()}"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL

    def finish(self) -> None:
        assert align(self.arguments) == 0

    def calls(self) -> Counter[str]:
        """Calls of all rounds' ledgers, by their state."""
        states: Counter[str] = Counter()
        for store in self.folder.glob("round-*/labels.db"):
            with Store.open(str(store)).begin() as session:
                states.update(session.scalars(select(JudgeCall.state)))
        return states

    def files(self) -> dict[str, str]:
        """The hashes of what two equal runs have in common, by name."""
        found = (path for pattern in SAME for path in self.folder.glob(pattern) if path.is_file())
        return {str(f.relative_to(self.folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in found}


def words(model: Path, folder: Path, rounds: int, prompts: int) -> list[str]:
    rows = (json.dumps({"prompt": f"where is inn {i}?"}) + "\n" for i in range(rounds * prompts))
    (folder / "prompts.jsonl").write_text("".join(rows))
    return [
        *("dpo", "--rounds", str(rounds), f"policy.path={model}", f"online.prompts={folder}/prompts.jsonl"),
        *(f"online.prompts_a_round={prompts}", "online.completions=2", "online.sampling.max_new_tokens=12"),
        *(f"online.batch_size={prompts // 2}", f"online.judge.model={MODEL}", "online.judge.concurrency=4"),
        *("tuning.rank=4", "learning_rate=1e-3", "batch_size=2", "microbatch=2", "max_length=128"),
        "save_every=1",
    ]


def check_kills(
    model: Path, folder: Path, *, rounds: int, prompts: int, kills: list[tuple[str, float]]
) -> None:
    """A run killed in each of these phases, so many seconds after it began to work there, against a whole one."""
    arguments, context = words(model, folder, rounds, prompts), fork_server()
    with StandInJudge(quality) as server:
        whole = Rounds(folder / "whole", arguments, server, context)
        whole.finish()
        answered = Counter(server.log.answered)
    assert set(answered.values()) == {1}
    with StandInJudge(quality, latency=0.02) as server:  # some calls are in flight at every kill
        broken = Rounds(folder / "broken", arguments, server, context)
        for phase, after in kills:
            broken.kill_in(phase, broken.start(), after)
        broken.finish()
        again = Counter(server.log.answered)
    assert broken.files() == whole.files()
    assert whole.calls() == {"answered": len(answered)}
    # nothing else was asked; and what was answered twice had its answer on the way when the kill came
    states = broken.calls()
    assert set(again) == set(answered)
    assert states["answered"] == len(answered)
    assert sum(again.values()) - len(again) <= states["uncertain"] <= 4 * len(kills)


def quality(_prompt: str, answer: str) -> float:
    return float(answer.count("e"))


@pytest.mark.slow
def test_kills_while_it_is_judged_and_while_it_trains_change_nothing(
    tiny_model: Path, tmp_path: Path
) -> None:
    check_kills(tiny_model, tmp_path, rounds=1, prompts=12, kills=[(JUDGING, 0.03), (TRAINING, 0.01)])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments_change_nothing(tiny_model: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    # each phase of each round is long enough for the kills that may fall in it
    phases = [phase for _ in range(4) for phase in (ANSWERING, JUDGING, JUDGING, TRAINING, TRAINING)]
    kills = [(phase, draw.uniform(0.0, 0.15)) for phase in phases]
    check_kills(tiny_model, tmp_path, rounds=6, prompts=40, kills=kills)
