"""`align ppo` killed with -9 and resumed ends with the metrics of the run that was never broken, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from alignment.checkpoints import saved_steps
from alignment.cli import run
from tests.alignment.ppo_config import write_ppo_config

ALIGN = [sys.executable, "-c", "from alignment.cli import main; main()"]


@pytest.fixture
def config_file(tiny_model, reward_folder, tmp_path):
    policy = {"path": str(tiny_model)}
    return write_ppo_config(
        tmp_path,
        tiny_model,
        policy=policy,
        reward=str(reward_folder),
        iterations=30,
        learning_rate=1e-3,
        save_every=3,
    )


def align(*arguments, **kwargs):
    return subprocess.run(
        [*ALIGN, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False, **kwargs
    )


def metrics(folder: Path) -> str:
    return (folder / "metrics.jsonl").read_text()


def test_kill_9_and_resume_equal_an_unbroken_run(config_file, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = align("ppo", "-c", config_file, f"run={whole}")
    assert done.returncode == 0, done.stderr

    process = subprocess.Popen(
        [*ALIGN, "ppo", "-c", str(config_file), f"run={broken}"], stderr=subprocess.DEVNULL
    )
    while not saved_steps(broken / "checkpoints"):
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.02)
    time.sleep(0.1)  # somewhere in an iteration, or in the next checkpoint
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(metrics(broken).splitlines()) < 30

    resumed = align("ppo", "-c", config_file, f"run={broken}", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert metrics(broken) == metrics(whole)
    for folder in (whole, broken):
        assert len(metrics(folder).splitlines()) == 30
        assert saved_steps(folder / "checkpoints") == [27, 30]
    adapter = "model/adapter_model.safetensors"
    assert (whole / adapter).read_bytes() == (broken / adapter).read_bytes()


@pytest.fixture
def refusal(capsys):
    """Runs `align` in this process; returns its exit code and the last line it printed."""

    def refuse(*arguments):
        code = run([str(a) for a in arguments])
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        return code, printed.strip().splitlines()[-1]

    return refuse


def test_what_is_refused(config_file, tmp_path, tiny_model, reward_folder, refusal):
    once = ("ppo", "-c", config_file, f"run={tmp_path / 'run'}", "iterations=1")
    assert run([str(a) for a in once]) == 0
    code, line = refusal(*once)
    assert code == 1
    assert "already exists" in line
    assert "--resume" in line
    code, line = refusal(*once, "--resume", "learning_rate=0.5")
    assert code == 2
    assert "learning_rate changed" in line

    new = ("ppo", "-c", config_file)
    code, line = refusal(*new, f"run={tmp_path / 'x'}", f"policy.path={reward_folder}")
    assert code == 1
    assert "is a reward model" in line
    code, line = refusal(*new, f"run={tmp_path / 'y'}", f"reward={tiny_model}")
    assert code == 1
    assert "reward.json" in line or "score head" in line
    probe = (f"probe.gold={tmp_path}/gone", f"probe.prompts={tmp_path}/prompts.jsonl")
    slips = [
        (f"policy.path={tmp_path}/gone",),
        (f"reward={tmp_path}/gone",),
        (f"prompts={tmp_path}/gone.jsonl",),
        probe,
    ]
    for wrong in slips:
        code, line = refusal(*new, f"run={tmp_path / 'z'}", *wrong)
        assert code == 1, wrong
        assert "gone" in line
        assert not (tmp_path / "z").exists(), wrong  # the command with the slip mended is not refused for it
    code, line = refusal(*new, f"run={tmp_path / 'z'}", "sampling.max_new_tokens=255")
    assert code == 1
    assert "no prompt fits" in line


def test_the_plan_starts_nothing(config_file, tmp_path, capsys):
    assert run(["ppo", "-c", str(config_file), f"run={tmp_path / 'planned'}", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["lam"] == 0.95
    assert "# optimizer steps: 120" in printed
    assert not (tmp_path / "planned").exists()
