"""Whatever stops `align ppo`: one line says where, why and how to go on, and a resumed run ends as an unbroken one."""

import math
import os
import resource
import signal
import subprocess
from contextlib import suppress

import pytest
import torch

from alignment.checkpoints import saved_steps
from alignment.cli import run
from alignment.ppo.trainer import PPOTrainer
from alignment.runs import RunFolder
from rollout.errors import RolloutError
from rollout.transformers_engine import TransformersEngine
from tests.alignment.ppo_config import write_ppo_config
from tests.reward import unruly
from tests.reward.scoring_service import Service

RULE = "python:tests.reward.unruly:score"
ITERATIONS, FAILS = 6, 5  # checkpoints at 3 and 6
PAGE = 4096


@pytest.fixture(scope="module")
def settings(tiny_model, tmp_path_factory):
    """The config file, and what an unbroken run of it writes."""
    folder = tmp_path_factory.mktemp("failures")
    path = write_ppo_config(
        folder,
        tiny_model,
        run=str(folder / "whole"),
        reward=RULE,
        iterations=ITERATIONS,
        learning_rate=1e-3,
        save_every=3,
        sample_every=1,
        alarms={"truncated": 1.0},
    )
    assert run(["ppo", "-c", str(path)]) == 0
    return path, what_is_kept(folder / "whole")


def what_is_kept(folder):
    files = ("metrics.jsonl", "samples.jsonl", "model/adapter_model.safetensors")
    return [(folder / name).read_bytes() for name in files]


class Broken:
    """A run that a failure stops, and that is then resumed."""

    def __init__(self, settings, folder, capsys):
        (self.config, self.whole), self.folder, self.capsys = settings, folder, capsys

    def ppo(self, *overrides):
        """The exit code and what was printed."""
        self.capsys.readouterr()
        code = run(["ppo", "-c", str(self.config), f"run={self.folder}", *overrides])
        printed = self.capsys.readouterr().err
        assert "Traceback" not in printed
        return code, printed.strip().splitlines()

    def fails(self, *overrides):
        """The line that says why."""
        code, printed = self.ppo(*overrides)
        assert code == 1
        assert [line for line in printed if "error" in line] == printed[-1:]  # one line, and the last
        return printed[-1]

    def resumes(self, *overrides):
        unruly.forget()
        code, printed = self.ppo("--resume", *overrides)
        assert code == 0, printed
        assert what_is_kept(self.folder) == self.whole

    @property
    def saved(self):
        return saved_steps(self.folder / "checkpoints")


@pytest.fixture
def broken(settings, tmp_path, capsys):
    unruly.forget()
    yield Broken(settings, tmp_path / "broken", capsys)
    unruly.forget()


def fail(error):
    def act(*_):
        raise error

    return act


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (lambda scores: [math.nan, *scores[1:]], "gave 1 of 8 scores that are not finite"),
        (lambda scores: scores[1:], "gave 7 scores for 8 conversations"),
        (fail(ValueError("no such word")), "raised ValueError: no such word"),
        (fail(ConnectionResetError("the oracle is gone")), "raised ConnectionResetError: the oracle is gone"),
    ],
)
def test_a_scorer_that_fails(broken, act, why):
    unruly.trouble[FAILS] = act
    line = broken.fails()
    assert line.startswith(f"error: after iteration {FAILS - 1}: reward rule tests.reward.unruly:score {why}")
    assert line.endswith("mend the cause, then --resume goes on after iteration 4")
    assert broken.saved == [3, 4]  # the iterations before the one that failed are not lost
    broken.resumes()


def test_a_reward_service_that_fails(broken, settings, tmp_path):
    """The service scores by length: so its unbroken run is another."""
    with Service() as service:
        assert broken.ppo(f"reward={service.url}")[0] == 0
        broken.whole, broken.folder = what_is_kept(broken.folder), tmp_path / "again"
        service.script[:] = [200] * (FAILS - 1) + ["<html>maintenance</html>"]
        line = broken.fails(f"reward={service.url}")
        assert f"after iteration {FAILS - 1}: reward service {service.url} replied b'<html>" in line
        assert line.endswith("--resume goes on after iteration 4")
        broken.resumes(f"reward={service.url}")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RolloutError("the engine on port 8000 does not answer: start it again"), "the engine on port 8000"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (TimeoutError("timed out"), "timed out"),
    ],
)
def test_an_engine_that_dies(broken, monkeypatch, error, why):
    generate, calls = TransformersEngine.generate, []

    def dying(self, *arguments, **keywords):
        calls.append(1)
        if len(calls) == FAILS:
            raise error
        return generate(self, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(TransformersEngine, "generate", dying)
        line = broken.fails()
    assert line.startswith(f"error: after iteration {FAILS - 1}: {why}")
    assert "--resume goes on after iteration " in line
    broken.resumes()


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        (2, "after iteration 0: the gradient is not finite; lower learning_rate or raise kl.coef"),
        (1, "after iteration 1: the policy's logits are not finite: its weights are broken"),
    ],
)
def test_a_policy_that_breaks(broken, steps, line):
    """An absurd learning rate: what it made of the weights is never saved."""
    said = broken.fails("learning_rate=1e25", f"epochs={steps}", "minibatches=1")
    assert said.startswith(f"error: {line}")
    assert said.endswith("there is no checkpoint yet: mend the cause, then --resume starts again")
    assert broken.saved == []


def test_a_file_that_must_not_grow(broken):
    """Checkpoints over the limit of a file's size: the first is written, the second is not."""
    size = max(file.stat().st_size for file in broken.config.parent.glob("whole/checkpoints/*/*"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(scores):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
        return scores

    unruly.trouble[FAILS] = limit
    try:
        line = broken.fails()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert line.startswith(
        f"error: after iteration {ITERATIONS}: cannot write {broken.folder}/checkpoints/step-000006"
    )
    assert "File too large" in line
    assert line.endswith("--resume goes on after iteration 3")
    assert [path.name for path in (broken.folder / "checkpoints").iterdir()] == ["step-000003"]
    broken.resumes()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs rights that this user has not")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk, left):
    """Trouble that fills `disk` but for `left` bytes."""

    def act(scores):
        with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * PAGE)
        os.truncate(disk / "filler", (disk / "filler").stat().st_size - left)
        return scores

    return act


def pages(file):
    """Bytes that a file takes on such a disk."""
    return -(-file.stat().st_size // PAGE) * PAGE


@pytest.mark.parametrize("left", [0, PAGE, 10 * PAGE])
def test_a_disk_that_is_full(broken, small_disk, left):
    """Full in the middle of iteration 5: in its row, a row later, or in the next checkpoint."""
    broken.folder = small_disk / "run"
    unruly.trouble[FAILS] = fill(small_disk, left)
    line = broken.fails()
    assert "No space left on device" in line
    assert line.endswith("--resume goes on after iteration 3")
    assert broken.saved == [3]
    (small_disk / "filler").unlink()
    broken.resumes()


def test_a_disk_that_is_full_when_the_policy_is_saved(broken, small_disk):
    checkpoint = (broken.config.parent / "whole" / "checkpoints" / "step-000006").iterdir()
    broken.folder = small_disk / "run"
    unruly.trouble[ITERATIONS] = fill(small_disk, left=sum(pages(file) for file in checkpoint) + 6 * PAGE)
    line = broken.fails()
    assert line.startswith(f"error: after iteration {ITERATIONS}: cannot write {broken.folder}/model: ")
    assert "No space left on device" in line
    assert line.endswith(f"--resume goes on after iteration {ITERATIONS}")
    (small_disk / "filler").unlink()
    broken.resumes()


def interrupt(scores=None):
    os.kill(os.getpid(), signal.SIGINT)
    return scores


def test_ctrl_c_loses_nothing_before_the_iteration(broken):
    unruly.trouble[FAILS] = interrupt
    code, printed = broken.ppo()
    assert code == 130
    said = [line for line in printed if "interrupted after" in line]
    assert said == [f"PPO: interrupted after iteration {FAILS - 1}; --resume goes on after iteration 4"]
    assert broken.saved == [3, 4]
    broken.resumes()


def test_ctrl_c_while_the_policy_learns_goes_back_to_the_last_checkpoint(broken, monkeypatch):
    descend = PPOTrainer.descend

    def interrupted(self, *arguments):
        if self.iteration == FAILS - 1:
            interrupt()
        return descend(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PPOTrainer, "descend", interrupted)
        code, printed = broken.ppo()
    assert code == 130
    assert f"PPO: interrupted after iteration {FAILS - 1}; --resume goes on after iteration 3" in printed
    assert broken.saved == [3]  # half an update is none
    broken.resumes()


def test_a_gpu_that_is_too_small(broken, monkeypatch):
    """What torch raises there; `microbatch` may change on --resume, though then not to the last bit."""
    with monkeypatch.context() as patch:
        patch.setattr(
            PPOTrainer, "learn", fail(torch.OutOfMemoryError("CUDA out of memory. Tried to\nallocate"))
        )
        line = broken.fails()
    assert line == (
        "error: after iteration 0: out of memory: lower microbatch; "
        "there is no checkpoint yet: mend the cause, then --resume starts again"
    )
    broken.resumes()


@pytest.mark.parametrize("action", ["halt", "rollback"])
def test_a_kl_that_blows_up(broken, action):
    kl = [row["kl"] for row in RunFolder(broken.config.parent / "whole").rows()]
    rings = max(range(2, ITERATIONS), key=lambda i: kl[i - 1])
    limit = kl[rings - 1] - 1e-9
    assert max(kl[: rings - 1]) < limit
    line = broken.fails(
        f"alarms.action={action}", f"alarms.kl={limit}", "alarms.truncated=1.0", "save_every=1"
    )
    assert line.startswith(f"error: stopped by an alarm at iteration {rings}: the policy is")
    kept = rings if action == "halt" else rings - 1
    assert line.endswith(f"--resume alarms.action=warn goes on after iteration {kept}")
    assert (broken.folder / "model" / "adapter_model.safetensors").exists()
    assert broken.saved[-1] == kept
    broken.resumes("alarms.action=warn", "alarms.truncated=1.0")
