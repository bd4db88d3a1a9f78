"""Options of PPO that trade one resource for another: each changes what a run costs, not what it computes."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch

from alignment.checkpoints import load_checkpoint, save_checkpoint
from alignment.ppo.losses import importance_weights, policy_loss
from alignment.ppo.trunk import trunk
from rollout.transformers_engine import TransformersEngine
from tests.alignment import ppo_processes_worker as worker
from tests.alignment.test_ppo_processes import KINDS, SMALL, launch, same
from tests.alignment.test_ppo_trainer import gradients, make_trainer, some_experience

LORA = {"rank": 4, "alpha": 8}
ENGINE = {"old_logprobs": "engine", "critic": {"trunk": "own", "init": "zero"}, "learning_rate": 1e-3}


@pytest.fixture
def passes():
    """Counts how often a layer's attention is run; register on a module."""

    class Passes:
        count = 0

        def of(self, model):
            trunk(model).layers[-1].self_attn.register_forward_pre_hook(self.one_more)

        def one_more(self, *_):
            self.count += 1

    return Passes()


@pytest.mark.parametrize(
    "changes",
    [
        {"tuning": LORA},
        {"tuning": LORA | {"layers": 1}},
        {"tuning": LORA, "critic": {"trunk": "own", "init": "zero"}},
        {"tuning": LORA | {"method": "qlora"}},
        {"tuning": {"method": "full"}},
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_layers_are_run_again_and_change_nothing(tiny_model, passes, changes, packed):
    trainer = make_trainer(tiny_model, gradient_checkpointing=True, **changes)
    models = trainer.models
    assert models.shortcuts.packed
    assert models.shortcuts.checkpointed
    models.shortcuts = replace(models.shortcuts, packed=packed)
    experience = some_experience(trainer)
    passes.of(models.language_model)
    found = gradients(trainer, experience)
    again = passes.count
    models.shortcuts = replace(models.shortcuts, checkpointed=False)
    expected, once = gradients(trainer, experience), passes.count - again
    assert again == 2 * once > 0
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert expected.abs().max() > 1e-4


def test_a_run_with_checkpointing_is_the_run_without(tiny_model):
    rows = [make_trainer(tiny_model, gradient_checkpointing=on).step() for on in (False, True)]
    assert rows[1] == pytest.approx(rows[0], abs=1e-6)


def kept(models, batch):
    """Bytes that a forward holds for its backward, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in models.parameters()}
    held = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = tensor  # and so alive: its address stays its own
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs, _ = models.policy_logprobs(batch, 1.0)
    assert logprobs.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize("tuning", [LORA, {"method": "full"}])
def test_checkpointing_holds_less(tiny_model, tuning):
    trainer = make_trainer(tiny_model, tuning=tuning)
    sequences = some_experience(trainer).sequences
    whole = kept(trainer.models, sequences)
    trainer.models.shortcuts = replace(trainer.models.shortcuts, checkpointed=True)
    assert kept(trainer.models, sequences) < 0.6 * whole


class Inexact(TransformersEngine):
    """Says log-probabilities that are off by a little from its second answers on."""

    off = 0.01

    def generate(self, prompt_ids, sampling, rows=None):
        completions = super().generate(prompt_ids, sampling, rows)
        off = self.off if self.version >= 2 else 0.0
        return [replace(c, logprobs=tuple(p - off for p in c.logprobs)) for c in completions]


def inexact(trainer):
    engine = trainer.sampler.engine
    trainer.sampler.engine = Inexact(engine.model, engine.stop_token_ids, engine.pad_token_id, max_batch=16)
    return trainer


@pytest.mark.parametrize("changes", [{}, {"tuning": {"method": "full"}}])
def test_an_exact_engines_logprobs_save_a_forward(tiny_model, passes, changes):
    trainer = make_trainer(tiny_model, **(ENGINE | changes))
    plain = make_trainer(tiny_model, **(ENGINE | {"old_logprobs": "recompute"} | changes))
    for _ in range(2):  # measured at first, and after the engine was given another policy
        row, other = trainer.step(), plain.step()
        assert row == other
        assert row["engine_gap_max"] < 1e-4
    asked = []
    policy_logprobs = trainer.models.policy_logprobs
    trainer.models.policy_logprobs = lambda *a: asked.append(torch.is_grad_enabled()) or policy_logprobs(*a)
    row, other = trainer.step(), plain.step()
    assert asked
    assert all(asked)  # in updates only
    assert "engine_gap_max" not in row
    assert row["entropy"] == pytest.approx(other["entropy"], rel=0.05)  # that of the updates' forwards
    known = row.keys() - {"entropy"}
    assert {k: row[k] for k in known} == pytest.approx({k: other[k] for k in known}, rel=1e-3, abs=1e-4)


SHARED = {"old_logprobs": "engine", "critic": {"trunk": "policy", "learning_rate": 1e-2}}


def test_an_exact_engines_values_save_the_trunks_forward(tiny_model):
    trainer = make_trainer(tiny_model, **SHARED)
    plain = make_trainer(tiny_model, **(SHARED | {"old_logprobs": "recompute"}))
    for _ in range(2):
        assert trainer.step() == plain.step()
    ran = []
    policy_states = trainer.models.policy_states
    trainer.models.policy_states = lambda batch: ran.append(torch.is_grad_enabled()) or policy_states(batch)
    row, other = trainer.step(), plain.step()
    assert ran
    assert all(ran)  # in updates only
    known = row.keys() - {"entropy"}
    assert {k: row[k] for k in known} == pytest.approx({k: other[k] for k in known}, rel=1e-3, abs=1e-4)


def test_an_engine_whose_values_are_not_exact_is_not_believed(tiny_model, capsys):
    trainer = make_trainer(tiny_model, **SHARED)
    engine = trainer.sampler.engine
    trainer.step()
    engine.value_head = copy.deepcopy(engine.value_head)
    with torch.no_grad():
        engine.value_head.bias += 0.01
    trainer.step()
    assert not trainer.trust.exact
    assert "PPO: what the engine says is off by up to 0.01" in capsys.readouterr().err


def test_an_engine_that_is_not_exact_is_not_believed(tiny_model, capsys):
    trainer = inexact(make_trainer(tiny_model, **ENGINE))
    first = trainer.step()
    assert first["engine_gap_max"] < 1e-4
    assert trainer.trust.exact
    second = trainer.step()
    assert second["engine_gap_max"] == pytest.approx(0.01, rel=1e-2)
    assert not trainer.trust.exact
    line = "PPO: what the engine says is off by up to 0.01: old_logprobs=recompute instead"
    assert capsys.readouterr().err.count(line) == 1
    plain = inexact(make_trainer(tiny_model, **(ENGINE | {"old_logprobs": "recompute"})))
    rows = [plain.step() for _ in range(3)]
    assert [first, second, trainer.step()] == rows
    assert line not in capsys.readouterr().err


@pytest.mark.parametrize("engine", [lambda trainer: trainer, inexact])
def test_what_was_found_of_the_engine_outlasts_a_restart(tiny_model, tmp_path, engine):
    unbroken = engine(make_trainer(tiny_model, **ENGINE))
    rows = [unbroken.step() for _ in range(2)]
    save_checkpoint(tmp_path, 2, unbroken.state_dict(), keep=1)
    rows += [unbroken.step() for _ in range(2)]
    resumed = engine(make_trainer(tiny_model, **ENGINE))
    resumed.load_state_dict(load_checkpoint(tmp_path))
    assert resumed.trust.exact is (engine is not inexact)
    assert json.dumps([resumed.step(), resumed.step()]) == json.dumps(rows[2:])


def test_an_engine_is_measured_until_it_was_given_another_policy(tiny_model):
    trainer = make_trainer(tiny_model, **(ENGINE | {"critic": {"trunk": "own", "init": "zero", "warmup": 1}}))
    measured = ["engine_gap_max" in trainer.step() for _ in range(4)]
    assert measured == [True, True, True, False]


def test_a_probe_asks_the_policy_whatever_the_engine_says(tiny_model):
    trainer = make_trainer(tiny_model, **ENGINE)
    for _ in range(2):
        trainer.step()
    assert trainer.trust.suffices(trainer.iteration)
    rollouts = trainer.generate(trainer.sampler.prompts.take(4))
    found = trainer.evaluate(rollouts.sequences)
    assert torch.allclose(found.logprobs, rollouts.engine_logprobs, atol=1e-4)
    assert found.logprobs.any()


def test_importance_weights_by_hand():
    old, engine = torch.tensor([0.5, 0.5, 0.5]).log(), torch.tensor([0.5, 0.8, 0.1]).log()
    weights = importance_weights(old, engine, cap=2.0)
    assert weights.tolist() == pytest.approx([1.0, 0.625, 2.0])  # 5 is cut to 2
    new, advantages = torch.tensor([0.6, 0.6, 0.1]).log(), torch.tensor([1.0, -1.0, -1.0])
    plain, *_ = policy_loss(new, old, advantages, clip=0.1, dual_clip=1.1)
    assert plain.tolist() == pytest.approx([-1.1, 1.1, 0.9])  # clipped, dual-clipped, clipped
    weighted, *_ = policy_loss(new, old, advantages * weights, clip=0.1, dual_clip=1.1)
    assert weighted.tolist() == pytest.approx([-1.1, 0.6875, 1.8])


def test_losses_are_weighted_by_what_the_engine_said(tiny_model):
    trainer, plain = (make_trainer(tiny_model, importance_cap=cap) for cap in (1.5, None))
    prompts = trainer.sampler.prompts.take(16)
    rollouts = trainer.generate(prompts)
    mask = rollouts.sequences.response_mask
    shift = torch.zeros(mask.shape)
    shift[:, 0], shift[:, 1:2] = 2.0, -1.0  # the engine's are that much off
    shifted = replace(rollouts, engine_logprobs=(rollouts.engine_logprobs + shift) * mask)
    scores = torch.arange(16.0)
    with torch.no_grad():
        weighted, seen = trainer.assess(shifted, scores)
        unweighted, other = plain.assess(rollouts, scores)
    expected = torch.exp(-shift).clamp(max=1.5) * mask
    assert torch.allclose(weighted.advantages, unweighted.advantages * expected, atol=1e-5)
    assert torch.equal(weighted.returns, unweighted.returns)
    assert seen["importance_mean"] == pytest.approx(float(expected[mask].mean()), abs=1e-4)
    assert "importance_mean" not in other
    assert unweighted.advantages[:, 0].abs().min() > 1e-3


def test_a_gap_turns_importance_weights_on_for_good(tiny_model, tmp_path, capsys):
    trainer = inexact(make_trainer(tiny_model))
    trainer.sampler.engine.off = 0.05
    assert "importance_mean" not in trainer.step()
    row = trainer.step()
    assert row["importance_mean"] == pytest.approx(math.exp(0.05), rel=1e-3)
    line = "off by 0.05 nats a token: from now on tokens are weighted by old / engine probability, at most 2"
    assert capsys.readouterr().err.count(line) == 1
    save_checkpoint(tmp_path, 2, trainer.state_dict(), keep=1)
    trainer.sampler.engine.off = 0.0
    assert trainer.step()["importance_mean"] == pytest.approx(1.0, abs=1e-4)
    resumed = make_trainer(tiny_model)
    resumed.load_state_dict(load_checkpoint(tmp_path))
    assert "importance_mean" in resumed.step()
    assert line not in capsys.readouterr().err


def test_a_cap_of_ones_own_is_kept(tiny_model, capsys):
    trainer = inexact(make_trainer(tiny_model, importance_cap=1.5))
    trainer.sampler.engine.off = 1.0
    rows = [trainer.step() for _ in range(2)]
    assert rows[1]["importance_mean"] == pytest.approx(1.5, rel=1e-3)
    assert "nats a token" not in capsys.readouterr().err


def test_a_reference_on_the_cpu_stays_there(tiny_model):
    trainer = make_trainer(tiny_model, tuning={"method": "full"}, reference_on_cpu=True)
    models = trainer.models
    batch = some_experience(trainer).sequences
    before = models.reference_logprobs(batch, 1.0)
    plain = make_trainer(tiny_model, tuning={"method": "full"}).models
    assert torch.equal(before, plain.reference_logprobs(batch, 1.0))
    models.to("meta")
    assert {p.device.type for p in models.parameters()} == {"meta"}
    assert {p.device.type for p in models.reference.parameters()} == {"cpu"}
    assert not any(p.requires_grad for p in models.reference.parameters())
    assert torch.equal(models.reference_logprobs(batch, 1.0), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_reference_on_the_cpu_answers_on_the_gpu(tiny_model):
    models = make_trainer(tiny_model, tuning={"method": "full"}, reference_on_cpu=True).models
    batch = some_experience(make_trainer(tiny_model)).sequences
    before = models.reference_logprobs(batch, 1.0)
    models.to("cuda")
    there = models.reference_logprobs(batch.to("cuda"), 1.0)
    assert there.device.type == "cuda"
    assert torch.equal(there.cpu(), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"old_logprobs": "engine", "engine": "vllm"}, "set critic.trunk=own"),
        ({"reference_on_cpu": True}, "reference_on_cpu is for tuning.method=full"),
        ({"importance_cap": 0.0}, "importance_cap"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tiny_model, changes, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tiny_model, **changes)


def test_without_a_critic_the_engine_may_be_asked(tiny_model):
    trainer = make_trainer(tiny_model, old_logprobs="engine", advantages="rloo", group=4)
    rows = [trainer.step() for _ in range(3)]
    assert ["engine_gap_max" in row for row in rows] == [True, True, False]
    assert all("entropy" in row for row in rows)


@pytest.mark.slow
def test_two_processes_with_options_give_what_one_gives(tiny_model, tmp_path):
    options = {
        "upper_layers": {"gradient_checkpointing": True, "shard": True, "importance_cap": 2.0},
        "full": {
            "gradient_checkpointing": True,
            "shard": True,
            "reference_on_cpu": True,
            "old_logprobs": "engine",
        },
    }
    cases = {
        kind: {
            "model": str(tiny_model),
            "changes": SMALL | KINDS[kind] | more,
            "iterations": 3,
            "save": str(tmp_path / kind),
        }
        for kind, more in options.items()
    }
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    alone = {kind: worker.run(case)["rows"] for kind, case in cases.items()}
    done = launch(2, "-m", "tests.alignment.ppo_processes_worker", tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        results = json.loads((tmp_path / f"process-{rank}.json").read_text())["results"]
        for kind, rows in alone.items():
            assert results[kind]["split"] > 0
            same(results[kind]["rows"], rows)
    assert "engine_gap_max" not in alone["full"][-1]
