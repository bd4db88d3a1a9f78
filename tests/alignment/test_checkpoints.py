"""Checkpoints are whole or not there; what goes in comes out."""

import random
import resource
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.checkpoints import (
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
    saved_steps,
)
from alignment.errors import AlignmentError

plain = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text()
nested = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(0, 99), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(state=st.dictionaries(st.text(), nested, max_size=4))
def test_plain_values_round_trip(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, 1, state, keep=1)
    assert load_checkpoint(folder) == state


def test_optimizer_state_round_trips(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path, 1, {"optimizer": optimizer.state_dict()}, keep=1)
    again = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))], lr=0.5)
    again.load_state_dict(load_checkpoint(tmp_path)["optimizer"])
    assert again.param_groups[0]["lr"] == 0.1
    (state,) = again.state_dict()["state"].values()
    assert torch.allclose(state["exp_avg"], torch.full((3,), 0.1))


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, {"step": step}, keep=2)
    assert saved_steps(tmp_path) == [2, 10]
    assert load_checkpoint(tmp_path) == {"step": 10}
    assert load_checkpoint(tmp_path / "none") is None


def test_random_states_round_trip():
    torch.rand(1), random.random(), np.random.rand()
    state = random_state()
    drawn = torch.rand(3).tolist(), random.random(), random.gauss(0, 1), np.random.rand()
    restore_random_state(state)
    assert drawn == (torch.rand(3).tolist(), random.random(), random.gauss(0, 1), np.random.rand())


def test_a_full_disk_leaves_the_last_whole_checkpoint(tmp_path):
    """The file size limit stands in for the disk's: a write past it fails in the middle of the file."""
    script = f"""
        import pathlib, resource, signal, torch
        from alignment.checkpoints import load_checkpoint, save_checkpoint
        from alignment.errors import AlignmentError
        folder = pathlib.Path({str(tmp_path)!r})
        save_checkpoint(folder, 1, {{"weights": torch.ones(10)}}, keep=1)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save_checkpoint(folder, 2, {{"weights": torch.ones(1_000_000)}}, keep=1)
        except AlignmentError as error:
            print("refused:", error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert "refused: cannot write" in done.stdout, done.stderr
    assert "what was there before is untouched" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    assert torch.equal(load_checkpoint(tmp_path)["weights"], torch.ones(10))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_kill_9_in_the_middle_of_a_checkpoint(tmp_path):
    script = f"""
        import os, pathlib, signal, torch
        from alignment import checkpoints
        folder = pathlib.Path({str(tmp_path)!r})
        checkpoints.save_checkpoint(folder, 1, {{"weights": torch.ones(10)}}, keep=1)
        write = checkpoints.save_file
        def die_after_writing(*arguments):
            write(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoints.save_file = die_after_writing
        checkpoints.save_checkpoint(folder, 2, {{"weights": torch.zeros(10)}}, keep=1)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -9
    assert saved_steps(tmp_path) == [1]
    assert torch.equal(load_checkpoint(tmp_path)["weights"], torch.ones(10))
    save_checkpoint(
        tmp_path, 2, {"weights": torch.zeros(10)}, keep=1
    )  # what was left aside is not in the way
    assert [p.name for p in tmp_path.iterdir()] == ["step-000002"]


def test_a_checkpoint_that_was_damaged_later_says_so(tmp_path):
    save_checkpoint(tmp_path, 1, {"weights": torch.ones(10)}, keep=1)
    (tmp_path / "step-000001" / "tensors.safetensors").write_bytes(b"no")
    with pytest.raises(AlignmentError, match="cannot be read"):
        load_checkpoint(tmp_path)
