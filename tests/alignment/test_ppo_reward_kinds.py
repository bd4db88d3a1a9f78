"""`align ppo` and `align eval` with every kind of reward: a rule, a service, an ensemble."""

import shutil

import pytest
import yaml

from alignment.cli import run
from alignment.ppo.alarms import AlarmConfig, alarms
from alignment.ppo.build import build_actor_critic
from alignment.ppo.config import PPOConfig
from alignment.runs import RunFolder
from reward.card import RewardCard
from reward.learned import LearnedScorer
from tests.alignment.ppo_config import LENGTH, write_ppo_config
from tests.alignment.test_ppo_alarms import FINE
from tests.reward.scoring_service import Service


@pytest.fixture
def config_file(tiny_model, tmp_path):
    return write_ppo_config(tmp_path, tiny_model, iterations=2, epochs=1, minibatches=1, sample_every=1)


def ppo(config_file, *overrides):
    return run(["ppo", "-c", str(config_file), *overrides])


def test_a_rule_and_a_service_score_alike(config_file, tmp_path):
    assert ppo(config_file, f"reward={LENGTH}") == 0
    with Service() as service:
        assert ppo(config_file, f"reward={service.url}", f"run={tmp_path / 'remote'}") == 0
    rows = RunFolder(tmp_path / "run").rows()
    assert rows == RunFolder(tmp_path / "remote").rows()
    assert "disagreement" not in rows[0]
    samples = RunFolder(tmp_path / "run").rows("samples.jsonl")
    assert [row["score"] for row in samples] == [len(row["answer"]) for row in samples]


def test_an_ensemble_scores_by_its_mean_and_logs_its_spread(config_file, tmp_path, reward_folder, capsys):
    shifted = tmp_path / "shifted"  # the same model, whose normalised scores are 3 higher
    shutil.copytree(reward_folder, shifted)
    card = RewardCard.read(shifted)
    card.model_copy(update={"score_mean": card.score_mean - 3 * card.score_std}).write(shifted)

    both = f"reward=[{reward_folder}, {shifted}]"
    assert ppo(config_file, both, "--dry-run") == 0
    assert f"# reward: ['{reward_folder}', '{shifted}']" in capsys.readouterr().out
    assert ppo(config_file, both) == 0
    folder = RunFolder(tmp_path / "run")
    assert [row["disagreement"] for row in folder.rows()] == pytest.approx([1.5, 1.5])  # of 0 and 3
    sample = folder.rows("samples.jsonl")[0]
    conversation = [
        {"role": "user", "content": sample["prompt"]},
        {"role": "assistant", "content": sample["answer"]},
    ]
    alone = LearnedScorer(reward_folder, device="cpu", normalise=True).score([conversation])
    assert sample["score"] == pytest.approx(alone[0] + 1.5, abs=1e-4)
    assert "disagreement of the reward ensemble" in folder.report.read_text()


def test_rising_disagreement_is_an_alarm():
    def rows(last):
        return [FINE | {"disagreement": 0.2 if i < 5 else last} for i in range(10)]

    assert alarms(rows(0.4), AlarmConfig()) == {}
    found = alarms(rows(0.41), AlarmConfig())
    assert found.keys() == {"disagreement"}
    assert "from 0.2 to 0.41" in found["disagreement"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_critic_cannot_start_from_a_rule_and_says_so(tiny_model, method):
    values = {
        "run": "unused",
        "policy": {"path": str(tiny_model), "dtype": "float32"},
        "reward": LENGTH,
        "prompts": "unused",
        "tuning": {"method": method},
        "critic": {"trunk": "own"},
    }
    models, line = build_actor_critic(PPOConfig.model_validate(values))
    assert line.endswith("zero head (the reward is not one learned model to start from)")
    assert not models.value_head.weight.any()
    values["critic"]["init"] = "zero"
    assert build_actor_critic(PPOConfig.model_validate(values))[1].endswith("zero head")


@pytest.mark.parametrize(
    ("reward", "code", "line"),
    [
        ("python:nowhere:f", 1, "reward rule nowhere:f cannot be imported"),
        ("python:nowhere", 1, "write it as python:package.module:function"),
        ("http://", 1, "write its address as http://host:port/path"),
        ("[runs/gone, runs/away]", 1, "no model at runs/gone: train it first"),
        ("[runs/one]", 2, "at least 2 items"),
    ],
)
def test_a_reward_that_cannot_be_is_one_line(config_file, capsys, reward, code, line):
    assert ppo(config_file, f"reward={reward}") == code
    assert line in " ".join(capsys.readouterr().err.split())


def test_align_eval_scores_with_any_of_them(config_file, tmp_path, tiny_model):
    config = {
        "run": str(tmp_path / "eval"),
        "policies": {"base": str(tiny_model)},
        "prompts": str(tmp_path / "prompts.jsonl"),
        "sampling": {"max_new_tokens": 4},
        "reward": LENGTH,
    }
    path = tmp_path / "eval.yaml"
    path.write_text(yaml.safe_dump(config))
    assert run(["eval", "-c", str(path)]) == 0
    rows = RunFolder(tmp_path / "eval").rows("answers.jsonl")
    figures = RunFolder(tmp_path / "eval").summary
    assert figures["base.reward"] == pytest.approx(
        sum(len(row["answer"]) for row in rows) / len(rows), abs=1e-6
    )


def test_a_sum_of_a_model_and_rules_trains(config_file, tmp_path, reward_folder):
    total = f"reward={{sum: [{{reward: {reward_folder}}}, {{reward: 'length:characters', weight: -0.5}}]}}"
    assert ppo(config_file, total) == 0
    sample = RunFolder(tmp_path / "run").rows("samples.jsonl")[0]
    conversation = [
        {"role": "user", "content": sample["prompt"]},
        {"role": "assistant", "content": sample["answer"]},
    ]
    alone = LearnedScorer(reward_folder, device="cpu", normalise=True).score([conversation])[0]
    assert sample["score"] == pytest.approx(alone - 0.5 * len(sample["answer"]), abs=1e-4)


def test_a_key_of_a_sum_that_is_not_known_names_the_nearest(config_file, capsys):
    assert ppo(config_file, "reward={sum: [{reward: 'length:words', wieght: 1}]}") == 2
    assert "weight" in capsys.readouterr().err
