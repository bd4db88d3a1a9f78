"""Alarms: each rings for its own reason only, and a run halts or goes back as told."""

import pytest
import torch
from safetensors.torch import load_file

from alignment.checkpoints import load_checkpoint, saved_steps
from alignment.cli import run
from alignment.ppo.alarms import AlarmConfig, alarms
from alignment.ppo.report import write_ppo_report
from alignment.runs import RunFolder
from tests.alignment.ppo_config import write_ppo_config

FINE = {
    "kl": 2.0,
    "truncated": 0.1,
    "entropy": 1.0,
    "response_length": 20.0,
    "score_mean": 0.0,
    "score_std": 1.0,
    "explained_variance": 0.3,
}


def rows(count=12, **last):
    """A run that is fine, and whose last five iterations have these values."""
    return [FINE | (last if i >= count - 5 else {}) for i in range(count)]


def test_a_run_that_is_fine_rings_nothing():
    assert alarms(rows(), AlarmConfig()) == {}
    assert alarms([], AlarmConfig()) == {}


@pytest.mark.parametrize(
    ("name", "last", "words"),
    [
        ("kl", {"kl": 31.0}, "raise kl.coef"),
        ("truncated", {"truncated": 0.51}, "51% of the answers"),
        ("entropy", {"entropy": 0.09}, "from 1 to 0.09"),
        ("length", {"response_length": 32.0, "score_mean": 0.05}, "1.6 times"),
        ("critic", {"explained_variance": -0.01}, "worse than a constant"),
    ],
)
def test_each_alarm_rings_for_its_own_reason(name, last, words):
    found = alarms(rows(**last), AlarmConfig())
    assert found.keys() == {name}
    assert words in found[name]


@pytest.mark.parametrize(
    "last",
    [
        {"kl": 30.0},
        {"truncated": 0.5},
        {"entropy": 0.11},
        {"response_length": 32.0, "score_mean": 0.11},  # longer, but better
        {"response_length": 29.0},
    ],
)
def test_what_is_within_limits_is_let_be(last):
    assert alarms(rows(**last), AlarmConfig()) == {}


def test_a_critic_needs_five_bad_iterations():
    good_once = [*rows(explained_variance=-1.0)[:-1], FINE]
    assert alarms(good_once, AlarmConfig()) == {}
    without_critic = [{k: v for k, v in row.items() if k != "explained_variance"} for row in rows()]
    assert alarms(without_critic, AlarmConfig()) == {}


@pytest.fixture
def config_file(tiny_model, reward_folder, tmp_path):
    return write_ppo_config(
        tmp_path,
        tiny_model,
        words="<b>say",
        reward=str(reward_folder),
        iterations=6,
        learning_rate=1e-2,
        save_every=1,
        sample_every=2,
        # nearly every answer of a random model runs into the limit
        alarms={"truncated": 1.0, "kl": 1e-3, "entropy": 0.0},
    )


def test_warn_goes_on_and_the_report_shows_it(config_file, tmp_path, capsys):
    assert run(["ppo", "-c", str(config_file)]) == 0
    assert "raise kl.coef or lower learning_rate" in " ".join(capsys.readouterr().err.split())
    folder = RunFolder(tmp_path / "run")
    assert len(folder.rows()) == 6
    rung = folder.rows("alarms.jsonl")
    assert rung[0]["alarm"] == "kl"
    assert len(rung) < 6  # once, while it goes on ringing
    assert [row["iteration"] for row in folder.rows("samples.jsonl")] == [2] * 4 + [4] * 4 + [6] * 4
    page = folder.report.read_text()
    assert "raise kl.coef or lower learning_rate" in page
    assert "&lt;b&gt;say" in page
    assert "<b>say" not in page
    assert "score against KL" in page


def test_halt_stops_with_a_checkpoint(config_file, tmp_path):
    assert run(["ppo", "-c", str(config_file), "alarms.action=halt", "save_every=5"]) == 1
    folder = RunFolder(tmp_path / "run")
    stopped = len(folder.rows())
    assert stopped < 6
    assert saved_steps(folder.checkpoints) == [stopped]
    # with the alarm only a warning it goes on from there
    assert run(["ppo", "-c", str(config_file), "save_every=5", "--resume"]) == 0
    assert len(folder.rows()) == 6


def test_rollback_keeps_the_policy_from_before_the_alarm(config_file, tmp_path, capsys):
    assert run(["ppo", "-c", str(config_file), "alarms.action=rollback"]) == 1
    folder = RunFolder(tmp_path / "run")
    last = saved_steps(folder.checkpoints)[-1]
    assert last == len(folder.rows()) - 1  # the iteration that rang was not saved
    assert f"went back to iteration {last}" in " ".join(capsys.readouterr().err.split())
    saved = load_checkpoint(folder.checkpoints)["models"]
    policy = load_file(folder.model / "adapter_model.safetensors")
    name = next(key for key in policy if "lora_B" in key)
    assert torch.equal(policy[name], saved["{}.default.weight".format(name.removesuffix(".weight"))])


def test_a_report_of_a_run_without_samples(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "config.yaml").write_text("run: here\n")
    folder.log(FINE | {"iteration": 1})
    write_ppo_report(folder, {"episodes": 8, "seconds": {"train": 1.5}})
    page = folder.report.read_text()
    assert "None." in page
    assert "explained variance" in page
    assert "clipped ratios" not in page  # was not measured
