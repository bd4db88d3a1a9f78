"""A policy and its engine with a copy: what arrives is proven, and what is lost, swapped or mixed stops the run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignment.checkpoints import load_checkpoint, save_checkpoint
from alignment.delivery import deliver, tolerance
from alignment.ppo.trainer import PPOTrainer
from rollout import RolloutError
from tests.alignment.copying_engine import on_a_copy
from tests.alignment.test_ppo_probe import make_probe
from tests.alignment.test_ppo_trainer import make_trainer

TUNINGS = [{"method": "full"}, {"rank": 4, "alpha": 8}]


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_copy_learns_what_the_policy_itself_does(tiny_model, tuning):
    trainer, plain = (make_trainer(tiny_model, tuning=tuning) for _ in range(2))
    on_a_copy(trainer)
    for _ in range(3):
        row, expected = trainer.step(), plain.step()
        assert row.pop("delivery_gap") < 1e-4
        assert row == expected


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_policy_that_is_lost_on_the_way_stops_the_run(tiny_model, tuning):
    trainer = make_trainer(tiny_model, tuning=tuning)
    engine = on_a_copy(trainer)
    trainer.step()
    engine.lost = True
    with pytest.raises(RolloutError, match=r"version 2 .* still answers as version 1, to the last digit"):
        trainer.step()
    assert trainer.whole  # nothing of the iteration was done
    assert trainer.iteration == 1
    engine.lost = False
    assert trainer.step()["iteration"] == 2


def test_an_adapter_that_never_arrives_is_told_apart(tiny_model):
    trainer = make_trainer(tiny_model)
    engine = on_a_copy(trainer)
    engine.lost = True  # from the start: it has the base, which is the policy so far
    trainer.step()
    trainer.sampler.delivery = None  # as after a restart
    with pytest.raises(RolloutError, match=r"answers as the reference.*off by"):
        trainer.step()


@torch.no_grad()
def test_another_adapter_in_its_place_is_told_with_the_numbers(tiny_model):
    trainer, other = make_trainer(tiny_model), make_trainer(tiny_model)
    for parameter in (*trainer.models.policy_parameters(), *other.models.policy_parameters()):
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    engine = on_a_copy(trainer)
    engine.sync(other.models.policy())
    engine.lost = True
    with pytest.raises(RolloutError, match=r"not delivered right: the engine is off by .*tolerance 0.001"):
        trainer.step()


def test_a_delivery_draws_nothing(tiny_model):
    trainer = make_trainer(tiny_model)
    engine = on_a_copy(trainer)
    before = engine.generator.get_state()
    delivery = deliver(engine, trainer.models.policy(), trainer.sampler.prompts.items[0].ids)
    assert delivery is not None
    assert delivery.said.policy_version == engine.version == 1
    assert torch.equal(engine.generator.get_state(), before)
    assert tolerance(trainer.models.policy()) == 1e-3


def test_answers_of_two_versions_are_not_learned_from(tiny_model, monkeypatch):
    trainer = make_trainer(tiny_model)
    engine = on_a_copy(trainer)
    generate = engine.generate

    def mixed(prompts, sampling, rows=None):
        first, *others = generate(prompts, sampling, rows)
        return [replace(first, policy_version=7) if others else first, *others]

    monkeypatch.setattr(engine, "generate", mixed)
    with pytest.raises(RolloutError, match="1 of 16 answers are from version 7 of the policy, not from 1"):
        trainer.step()


def test_a_probe_between_changes_nothing(tiny_model):
    trainer, plain = (make_trainer(tiny_model) for _ in range(2))
    on_a_copy(trainer), on_a_copy(plain)
    probe = make_probe(trainer)
    for _ in range(2):
        assert probe.measure(trainer)["iteration"] == trainer.iteration
        assert trainer.step() == plain.step()


def test_a_resumed_run_is_the_unbroken_one(tiny_model, tmp_path):
    def started() -> PPOTrainer:
        trainer = make_trainer(tiny_model)
        on_a_copy(trainer)
        return trainer

    unbroken = started()
    for _ in range(2):
        unbroken.step()
    save_checkpoint(tmp_path, 2, unbroken.state_dict(), keep=1)
    resumed = started()
    resumed.load_state_dict(load_checkpoint(tmp_path))
    assert [resumed.step() for _ in range(2)] == [unbroken.step() for _ in range(2)]
