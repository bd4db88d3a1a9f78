"""The probe: it changes nothing in training, keeps the best policy by the gold score, and says when that turns."""

import json
import shutil

import pytest
import torch

from alignment.checkpoints import saved_steps
from alignment.cli import run
from alignment.models import load_policy, resolve
from alignment.ppo.alarms import over_optimised
from alignment.ppo.config import ProbeConfig
from alignment.ppo.probe import Probe, best_so_far, keep_best
from alignment.runs import RunFolder
from tests.alignment.ppo_config import LENGTH, write_ppo_config, write_prompts
from tests.alignment.test_ppo_processes import ALIGN, launch
from tests.alignment.test_ppo_trainer import LikesLetters, make_trainer
from tests.reward.scoring_service import Service


class Length:
    def score(self, conversations):
        return [float(len(conversation[-1]["content"])) for conversation in conversations]


def make_probe(trainer, scorer=None, **changes):
    config = ProbeConfig.model_validate({"prompts": "unused", "gold": "unused"} | changes)
    return Probe(
        config, trainer.sampler.prompts.items, scorer or Length(), trainer.sampler.engine.state_dict()
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"tuning": {"rank": 4, "layers": 1}}, {"tuning": {"method": "full"}}, {"advantages": "reinforce++"}],
)
def test_the_reference_itself_has_no_kl_and_both_scores_are_of_the_same_answers(tiny_model, changes):
    trainer = make_trainer(tiny_model, **changes)
    row = make_probe(trainer, LikesLetters()).measure(trainer)
    assert row["iteration"] == 0
    assert row["answers"] == 6
    assert row["kl"] == pytest.approx(0.0, abs=1e-5)
    assert row["gold_mean"] == row["proxy_mean"]
    trainer.step()
    moved = make_probe(trainer, LikesLetters()).measure(trainer)
    assert abs(moved["kl"]) > 1e-3


def test_two_probes_of_one_policy_are_equal(tiny_model):
    trainer = make_trainer(tiny_model)
    probe = make_probe(trainer)
    before = probe.measure(trainer)
    trainer.sampler.engine.generate([[5, 6]], trainer.config.sampling)  # training draws on
    assert probe.measure(trainer) == before


def test_greedy_answers_do_not_depend_on_the_seed(tiny_model):
    trainers = [make_trainer(tiny_model) for _ in range(2)]
    trainers[1].sampler.engine.generate([[5, 6]], trainers[1].config.sampling)
    greedy = [make_probe(trainer, greedy=True).measure(trainer) for trainer in trainers]
    sampled = [make_probe(trainer).measure(trainer) for trainer in trainers]
    assert greedy[0] == greedy[1]
    assert sampled[0] != sampled[1]


def test_a_probe_that_fails_leaves_training_as_it_was(tiny_model):
    class Broken:
        def score(self, conversations):
            torch.rand(3)
            raise KeyError("gone")

    trainer = make_trainer(tiny_model)
    engine, generator = trainer.sampler.engine.state_dict(), torch.get_rng_state()
    with pytest.raises(KeyError):
        make_probe(trainer, Broken()).measure(trainer)
    assert torch.equal(trainer.sampler.engine.state_dict()["generator"], engine["generator"])
    assert torch.equal(torch.get_rng_state(), generator)


def test_only_a_better_policy_takes_the_place_of_the_best(tiny_model, tmp_path):
    trainer, folder = make_trainer(tiny_model), RunFolder(tmp_path)
    assert best_so_far(folder) is None
    assert keep_best(trainer, folder, {"iteration": 0, "gold_mean": 1.0})
    first = (tmp_path / "best/adapter_model.safetensors").read_bytes()
    trainer.step()
    assert not keep_best(trainer, folder, {"iteration": 1, "gold_mean": 1.0})
    assert (tmp_path / "best/adapter_model.safetensors").read_bytes() == first
    assert keep_best(trainer, folder, {"iteration": 2, "gold_mean": 1.5})
    assert (tmp_path / "best/adapter_model.safetensors").read_bytes() != first
    assert best_so_far(folder) == {"iteration": 2, "gold_mean": 1.5}
    assert [path.name for path in tmp_path.iterdir()] == ["best"]  # nothing is left aside


BEST = {"iteration": 5, "answers": 100, "gold_mean": 1.0, "gold_std": 1.0, "proxy_mean": 2.0}


@pytest.mark.parametrize(
    ("last", "rings"),
    [
        ({"gold_mean": 0.79, "proxy_mean": 2.1}, True),  # two standard errors are 2 * 1 / sqrt(100) = 0.2
        ({"gold_mean": 0.81, "proxy_mean": 2.1}, False),
        ({"gold_mean": 0.5, "proxy_mean": 1.9}, False),  # both fell: the policy is worse, not over-optimised
        ({"gold_mean": 1.2, "proxy_mean": 2.1}, False),
    ],
)
def test_a_gold_score_that_falls_while_the_reward_rises_is_an_alarm(last, rings):
    found = over_optimised([BEST, BEST | {"iteration": 10} | last])
    assert ("over_optimised" in found) == rings
    assert not rings or "from 1 (iteration 5) to 0.79" in found["over_optimised"]
    assert over_optimised([]) == {}


@pytest.fixture
def config_file(tiny_model, tmp_path):
    held_out = write_prompts(tmp_path / "held_out.jsonl", 6, "held_out")
    return write_ppo_config(
        tmp_path,
        tiny_model,
        words="prompts",
        iterations=5,
        learning_rate=1e-2,
        save_every=2,
        keep_checkpoints=3,
        alarms={"truncated": 1.0},
        probe={
            "prompts": str(held_out),
            "gold": "python:tests.reward.scoring_rules:brevity",
            "every": 2,
        },
    )


def ppo(config_file, *overrides):
    return run(["ppo", "-c", str(config_file), *overrides])


def test_training_is_the_same_with_and_without_a_probe(config_file, tmp_path, capsys):
    assert ppo(config_file) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert ppo(config_file, f"run={tmp_path / 'plain'}", "probe=null") == 0
    folder, plain = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "plain")
    assert (folder.path / "metrics.jsonl").read_bytes() == (plain.path / "metrics.jsonl").read_bytes()
    assert not (plain.path / "probe.jsonl").exists()
    assert not (plain.path / "best").exists()

    probes = folder.rows("probe.jsonl")
    assert [row["iteration"] for row in probes] == [0, 2, 4, 5]
    best = max(probes, key=lambda row: row["gold_mean"])
    assert folder.summary["best"] == best
    assert folder.summary["gold"] == {"first": probes[0]["gold_mean"], "last": probes[-1]["gold_mean"]}
    assert f"best policy by the gold score: after iteration {best['iteration']}" in said
    load_policy(resolve(str(folder.path / "best")))
    for run_folder, has_probe in ((folder, True), (plain, False)):
        page = run_folder.report.read_text()
        assert ("Probe: gold score against reward" in page) == has_probe
        assert ("best gold score" in page) == has_probe
        assert "seconds by phase" in page


def test_a_resumed_run_keeps_the_best_and_probes_the_same(config_file, tmp_path):
    assert ppo(config_file) == 0
    folder = tmp_path / "run"
    files = ("metrics.jsonl", "probe.jsonl", "best/probe.json", "best/adapter_model.safetensors")
    whole = [(folder / file).read_bytes() for file in files]
    for step in (4, 5):  # as if killed after the third iteration
        shutil.rmtree(folder / f"checkpoints/step-{step:06d}")
    assert saved_steps(folder / "checkpoints") == [2]
    assert ppo(config_file, "--resume") == 0
    assert [(folder / file).read_bytes() for file in files] == whole

    shutil.rmtree(folder / "checkpoints")  # from the beginning: the first probe is not told twice
    assert ppo(config_file, "--resume") == 0
    assert [(folder / file).read_bytes() for file in files] == whole


def test_a_gold_scorer_that_fails_costs_no_iteration(config_file, tmp_path, capsys):
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    with Service() as service:
        settings = (
            "reward=python:tests.reward.scoring_rules:brevity",
            f"probe.gold={service.url}",
            "save_every=50",
        )
        assert ppo(config_file, f"run={whole.path}", *settings) == 0
        service.script = [200, 200, 400]  # the probe after iteration 4 fails
        assert ppo(config_file, f"run={broken.path}", *settings) == 1
        assert "iteration 4" in capsys.readouterr().err.strip().splitlines()[-1]
        assert saved_steps(broken.checkpoints) == [4]
        assert [row["iteration"] for row in broken.rows("probe.jsonl")] == [0, 2]
        assert ppo(config_file, f"run={broken.path}", *settings, "--resume") == 0
    assert broken.rows() == whole.rows()
    assert broken.rows("probe.jsonl") == whole.rows("probe.jsonl")


def test_over_optimisation_halts_a_run_that_is_told_to(config_file, tmp_path):
    off = ("alarms.kl=1e9", "alarms.entropy=0", "alarms.growth=1e9", "advantages=reinforce++")
    learning = ("tuning.method=full", "learning_rate=3e-3", "episodes=32", "kl.coef=0", "iterations=30")
    assert ppo(config_file, "alarms.action=halt", *off, *learning) == 1
    folder = RunFolder(tmp_path / "run")
    assert [row["alarm"] for row in folder.rows("alarms.jsonl")] == ["over_optimised"]
    probes = folder.rows("probe.jsonl")
    assert len(folder.rows()) == probes[-1]["iteration"] < 30
    assert probes[-1]["proxy_mean"] > folder.summary["best"]["proxy_mean"]
    assert folder.summary["best"]["gold_mean"] > probes[-1]["gold_mean"]


@pytest.mark.slow
def test_two_processes_probe_as_one(config_file, tmp_path):
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(held_out.read_text() + json.dumps({"prompt": "a seventh"}) + "\n")  # not a share each
    settings = ("iterations=2", "tuning.method=full", "learning_rate=1e-3")
    assert ppo(config_file, f"run={tmp_path / 'one'}", *settings) == 0
    two = ("ppo", "-c", config_file, f"run={tmp_path / 'two'}", *settings, "shard=true")
    done = launch(2, *ALIGN, *two)
    assert done.returncode == 0, done.stderr
    one, two = (RunFolder(tmp_path / name).rows("probe.jsonl") for name in ("one", "two"))
    assert [row["iteration"] for row in one] == [row["iteration"] for row in two] == [0, 2]
    for row, other in zip(one, two, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert (
        best_so_far(RunFolder(tmp_path / "two"))["iteration"]
        == best_so_far(RunFolder(tmp_path / "one"))["iteration"]
    )


def test_a_probe_that_cannot_be_is_refused_before_anything_is_loaded(config_file, tmp_path, capsys):
    def refusal(*overrides):
        code = ppo(config_file, *overrides)
        return code, capsys.readouterr().err.strip().splitlines()[-1]

    code, line = refusal(f"probe.gold={LENGTH}")
    assert code == 2
    assert "probe.gold is the reward itself" in line
    code, line = refusal("probe.gold=runs/none", f"run={tmp_path / 'a'}")
    assert code == 1
    assert "no model at runs/none" in line
    code, line = refusal("probe.prompts=none.jsonl", f"run={tmp_path / 'b'}")
    assert code == 1
    assert "no file none.jsonl" in line


def test_prompts_that_are_trained_on_are_pointed_out(config_file, tmp_path, capsys):
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(held_out.read_text() + json.dumps({"prompt": "prompts 3"}) + "\n")
    assert ppo(config_file, "iterations=1") == 0
    assert "1 of 7 prompts of the probe are trained on too" in " ".join(capsys.readouterr().err.split())
