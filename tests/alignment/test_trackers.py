"""Trackers: what TensorBoard reads back, also after a resumed run, and what is said where one is missing."""

import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alignment.cli import run
from alignment.config import Section
from alignment.errors import AlignmentError
from alignment.runs import RunFolder
from alignment.trackers import require_trackers, tracking
from tests.alignment.ppo_config import write_ppo_config


def curve(folder, name):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_reads_back_what_was_logged(tmp_path):
    with tracking(["tensorboard"], RunFolder(tmp_path), Section(), 0) as log:
        log(0, {"probe/gold_mean": 0.25})
        log(1, {"ppo/kl": 0.5})
        log(2, {"ppo/kl": 1.5})
        assert curve(tmp_path, "ppo/kl") == [(1, 0.5), (2, 1.5)]  # on disk at once: a run may be killed
    assert curve(tmp_path, "probe/gold_mean") == [(0, 0.25)]


def test_a_resumed_curve_continues_and_is_not_doubled(tmp_path):
    for last, steps in ((0, range(6)), (3, range(4, 8))):
        with tracking(["tensorboard"], RunFolder(tmp_path), Section(), last) as log:
            for step in steps:
                log(step, {"ppo/kl": float(step + last)})
    assert curve(tmp_path, "ppo/kl") == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 7), (5, 8), (6, 9), (7, 10)]


def test_without_trackers_nothing_is_written(tmp_path):
    with tracking([], RunFolder(tmp_path), Section(), 0) as log:
        log(1, {"ppo/kl": 0.5})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_with_its_command(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        AlignmentError, match=rf"{name}, which is not installed: pip install 'align\[{name}\]'"
    ):
        require_trackers([name])


@pytest.fixture
def config_file(tiny_model, tmp_path):
    return write_ppo_config(
        tmp_path, tiny_model, iterations=3, epochs=1, minibatches=1, save_every=2, track=["tensorboard"]
    )


def test_the_curves_are_the_metrics_also_of_a_run_that_goes_on(config_file, tmp_path):
    assert run(["ppo", "-c", str(config_file)]) == 0
    assert run(["ppo", "-c", str(config_file), "--resume", "iterations=5"]) == 0
    folder = RunFolder(tmp_path / "run")
    rows = folder.rows()
    assert len(rows) == 5
    for name in ("score_mean", "kl", "engine_gap_max", "explained_variance"):
        assert curve(folder.path, f"ppo/{name}") == [
            (row["iteration"], pytest.approx(row[name], rel=1e-6, abs=1e-30)) for row in rows
        ]
    assert len(curve(folder.path, "seconds/generate")) == 5
    assert len(curve(folder.path, "tokens_per_second/all")) == 5


def test_a_missing_tracker_is_said_before_the_run_is_begun(config_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    for more in ([], ["--dry-run"]):
        assert run(["ppo", "-c", str(config_file), "track=[tensorboard, wandb]", *more]) == 1
        assert "pip install 'align[wandb]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_wandb_runs_offline_without_an_account_and_goes_on_under_its_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    folder = RunFolder(tmp_path)
    for last in (0, 2):
        with tracking(["wandb"], folder, Section(), last) as log:
            log(last + 1, {"ppo/kl": 0.5})
            log(last + 2, {"ppo/kl": 1.5})
    runs = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) in (1, 2)  # those of one second share a folder
    assert {path.stem for path in runs} == {f"run-{(tmp_path / 'wandb_id').read_text()}"}
