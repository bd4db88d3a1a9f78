"""One step ahead: answers are one step old, never two, and the run is the same however it is cut.

The engine samples from a copy in this process, in a thread, as `vllm-server` does elsewhere.
"""

from __future__ import annotations

import threading

import pytest
import torch

from alignment.checkpoints import load_checkpoint, save_checkpoint
from alignment.config import load_config
from alignment.errors import AlignmentError, ConfigError
from alignment.ppo.config import PPOConfig
from rollout import RolloutError
from tests.alignment.copying_engine import on_a_copy
from tests.alignment.test_ppo_probe import make_probe
from tests.alignment.test_ppo_trainer import make_trainer

AHEAD = {"engine": "vllm-server", "overlap": 1}


def started(model, scorer=None, **changes):
    trainer = make_trainer(model, scorer, **(AHEAD | changes))
    on_a_copy(trainer)
    return trainer


class Fails:
    """Scores twice, then breaks, once."""

    def __init__(self, error):
        self.error, self.calls = error, 0

    def score(self, conversations):
        self.calls += 1
        if self.calls == 3:
            raise self.error
        return [len(conversation[-1]["content"]) / 10 for conversation in conversations]


def test_answers_are_one_step_old_and_weighted_for_it(tiny_model, capsys):
    trainer = started(tiny_model)
    generate, made = trainer.sampler.engine.generate, []

    def noted(prompts, sampling, rows=None):
        completions = generate(prompts, sampling, rows)
        if len(prompts) == 16:  # a batch, not the probe of a delivery
            made.append(
                (trainer.sampler.engine.version, threading.current_thread() is threading.main_thread())
            )
        return completions

    trainer.sampler.engine.generate = noted
    rows = [trainer.step() for _ in range(4)]
    trainer.close()
    assert [row["staleness"] for row in rows] == [0.0, 1.0, 1.0, 1.0]
    assert made == [(1, True), (1, False), (2, False), (3, False), (4, False)]
    assert rows[0]["engine_gap_max"] < 1e-4  # the first answers are the policy's own
    assert all(row["engine_gap_mean"] > 1e-3 for row in rows[1:])  # the rest are an older one's
    assert all(abs(row["importance_mean"] - 1) < 0.2 for row in rows)
    assert capsys.readouterr().err.count("answers will be one step old") == 1


def test_it_learns(tiny_model):
    full = {"tuning": {"method": "full"}, "learning_rate": 3e-3, "kl": {"coef": 0.0}}
    trainer = started(tiny_model, episodes=32, **full)
    scores = [trainer.step()["score_mean"] for _ in range(16)]
    trainer.close()
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.12


def test_a_resumed_run_is_the_unbroken_one(tiny_model, tmp_path):
    unbroken = started(tiny_model)
    for _ in range(2):
        unbroken.step()
    save_checkpoint(tmp_path, 2, unbroken.state_dict(), keep=1)
    resumed = started(tiny_model)
    resumed.load_state_dict(load_checkpoint(tmp_path))
    rows = [[trainer.step() for _ in range(3)] for trainer in (resumed, unbroken)]
    assert rows[0] == rows[1]
    for one, other in zip(
        resumed.models.policy_parameters(), unbroken.models.policy_parameters(), strict=True
    ):
        assert torch.equal(one, other)
    for trainer in (resumed, unbroken):
        trainer.close()


@pytest.mark.parametrize("error", [AlignmentError("broken"), KeyboardInterrupt()])
def test_a_scorer_that_fails_leaves_the_iteration_to_be_done_again(tiny_model, tmp_path, error):
    trainer = started(tiny_model, Fails(error))
    rows = [trainer.step() for _ in range(2)]
    with pytest.raises(type(error)):
        trainer.step()
    assert trainer.whole
    save_checkpoint(tmp_path, 2, trainer.state_dict(), keep=1)
    resumed = started(tiny_model, Fails(None))
    resumed.scorer.calls = 4
    resumed.load_state_dict(load_checkpoint(tmp_path))
    unbroken = started(tiny_model, Fails(None))
    unbroken.scorer.calls = 4
    assert [unbroken.step() for _ in range(2)] == rows
    expected = [unbroken.step() for _ in range(2)]
    assert [trainer.step() for _ in range(2)] == expected
    assert [resumed.step() for _ in range(2)] == expected
    for each in (trainer, resumed, unbroken):
        each.close()


def test_a_probe_between_changes_nothing(tiny_model):
    trainer, plain = started(tiny_model), started(tiny_model)
    probe = make_probe(trainer)
    for _ in range(3):
        probe.measure(trainer)
        assert trainer.step() == plain.step()
    trainer.close(), plain.close()


def test_an_engine_that_dies_while_the_policy_learns_is_told_at_the_next_step(tiny_model):
    trainer = started(tiny_model)
    trainer.step()
    trainer.sampler.ahead.wait()

    def gone(prompts, sampling, rows=None):
        raise RolloutError("no server answers")

    generate = trainer.sampler.engine.generate
    trainer.sampler.engine.generate = lambda p, s, rows=None: (gone if len(p) == 16 else generate)(p, s, rows)
    trainer.step()
    with pytest.raises(RolloutError, match="no server answers"):
        trainer.step()
    assert trainer.iteration == 2
    trainer.close()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["overlap=1"], "overlap=1 samples and learns at once.*set engine=vllm-server"),
        (["overlap=1", "engine=vllm"], "set engine=vllm-server"),
        (["overlap=2", "engine=vllm-server"], "overlap"),
        (
            ["overlap=1", "engine=vllm-server", "old_logprobs=engine", "critic.trunk=own"],
            "leave old_logprobs at recompute",
        ),
    ],
)
def test_what_cannot_go_ahead(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load_config(PPOConfig, None, ["run=r", "policy.path=p", "reward=w", "prompts=x", *overrides])
