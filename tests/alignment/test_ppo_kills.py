"""`align ppo` killed with -9 at twenty moments of its thirty iterations, and resumed after each."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.alignment.cli_process import fork_server, start
from tests.alignment.ppo_config import write_ppo_config

ALIGN = [sys.executable, "-c", "from alignment.cli import main; main()"]
ITERATIONS, KILLS = 30, 20
MOMENTS = ("starting", "working", "working", "writing a checkpoint")


@pytest.fixture
def config_file(tiny_model, tmp_path):
    return write_ppo_config(
        tmp_path,
        tiny_model,
        kl={"target": 1.0},
        iterations=ITERATIONS,
        learning_rate=1e-3,
        save_every=1,
        sample_every=1,
    )


class Command:
    """A real process of `align ppo`: forked from one that has imported everything, or a fresh interpreter."""

    def __init__(self, arguments, log, context=None):
        self.log = log
        if context:
            self.forked = start(context, arguments, log)
            self.pid = self.forked.pid
        else:
            self.forked = None
            with log.open("w") as file:
                self.fresh = subprocess.Popen([*ALIGN, *arguments], stderr=file)
            self.pid = self.fresh.pid

    @property
    def code(self):
        return self.forked.exitcode if self.forked else self.fresh.poll()

    def until(self, happened):
        while not happened():
            assert self.code is None, f"ended too early: {self.log.read_text()}"
            time.sleep(0.0005)

    def kill(self):
        assert self.code is None, f"ended before it was killed: {self.log.read_text()}"
        os.kill(self.pid, signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def wait(self):
        self.forked.join() if self.forked else self.fresh.wait()
        return self.code


@pytest.mark.slow
def test_twenty_kills_change_nothing(config_file, tmp_path):
    draw, context = random.Random(0), fork_server()
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "log"

    def rows():
        metrics = broken / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def writing():
        """Checkpoints that are being written, or were when their writer was killed."""
        return set((broken / "checkpoints").glob(".step-*.tmp"))

    assert Command(["ppo", "-c", str(config_file), f"run={whole}"], log, context).wait() == 0, log.read_text()
    arguments, half_written = ["ppo", "-c", str(config_file), f"run={broken}"], 0
    for kill in range(KILLS):
        # the first is the command as users start it
        process = Command(arguments, log, context if kill else None)
        moment = "working" if kill == 0 else draw.choice(MOMENTS)
        if rows() >= ITERATIONS - 3:
            moment = "starting"
        if moment == "starting":
            time.sleep(draw.uniform(0.0, 0.5))
        elif moment == "working":
            goal = rows() + draw.randint(1, 2)
            process.until(lambda goal=goal: rows() >= goal)
            time.sleep(draw.uniform(0.0, 0.15))
        else:
            left = writing()
            process.until(lambda left=left: writing() - left)
            time.sleep(draw.uniform(0.0, 0.004))
        process.kill()
        half_written += bool(writing())
        arguments = ["ppo", "-c", str(config_file), f"run={broken}", "--resume"]
    assert half_written  # else no kill fell where it could do harm
    last = Command(arguments, log, context)
    assert last.wait() == 0, log.read_text()
    for name in ("metrics.jsonl", "samples.jsonl", "model/adapter_model.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    assert (broken / "metrics.jsonl").read_bytes().count(b"\n") == ITERATIONS
