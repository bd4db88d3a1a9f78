"""Several processes are as one: the same metrics, the same checkpoints, one voice, and no waiting for the dead."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from alignment.checkpoints import saved_steps
from alignment.cli import run as align
from alignment.errors import AlignmentError
from alignment.ppo.processes import refuse_foreign_sharding, share
from tests.alignment import ppo_processes_worker as worker
from tests.alignment.ppo_config import write_ppo_config

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
ALIGN = ["--no-python", sys.executable, "-c", "from alignment.cli import main; main()"]
KINDS = {
    "lora": {"stop_kl": 1e-5, "epochs": 4, "kl": {"coef": 0.1, "target": 2.0}},
    "upper_layers": {
        "tuning": {"rank": 4, "alpha": 8, "layers": 1},
        "critic": {"trunk": "own", "init": "zero"},
    },
    "full": {"tuning": {"method": "full"}},
}
SMALL = {"learning_rate": 1e-3, "sampling": {"max_new_tokens": 12}, "episodes": 8}


def launch(processes, *command, timeout=200):
    return subprocess.run(
        [*TORCHRUN, str(processes), *map(str, command)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def found(tiny_model, tmp_path_factory):
    """What one process and what each of two made of the same cases, and of each other's checkpoints."""
    folder = tmp_path_factory.mktemp("processes")

    def case(name, kind, shard=False, load=None):
        changes = SMALL | KINDS[kind] | {"shard": shard}
        saved = str(folder / "saved" / name)
        return {"model": str(tiny_model), "changes": changes, "iterations": 3, "save": saved, "load": load}

    one = {kind: worker.run(case(f"{kind}-one", kind)) for kind in KINDS}
    cases = {}
    for kind in KINDS:
        for shard in (False, True):
            name = f"{kind}-{'split' if shard else 'whole'}"
            cases[name] = case(name, kind, shard)
            cases[f"{name}-resumed"] = case(
                f"{name}-resumed", kind, shard, str(folder / "saved" / f"{kind}-one")
            )
    (folder / "cases.json").write_text(json.dumps(cases))
    done = launch(2, "-m", "tests.alignment.ppo_processes_worker", folder)
    assert done.returncode == 0, done.stderr
    two = [json.loads((folder / f"process-{rank}.json").read_text()) for rank in range(2)]
    resumed = {
        name: worker.run(case | {"load": case["save"]}) for name, case in cases.items() if not case["load"]
    }
    return {"one": one, "two": two, "resumed": resumed}


def same(rows, others):
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, abs=1e-5)


def test_there_are_two_processes_that_talk_by_gloo(found):
    for process in found["two"]:
        assert process["world_size"] == 2
        assert "cpu:gloo" in process["backend"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["whole", "split"])
def test_two_processes_give_what_one_gives(found, kind, weights):
    alone = found["one"][kind]["rows"]
    first, second = (process["results"][f"{kind}-{weights}"] for process in found["two"])
    assert first["rows"] == second["rows"]  # to the last bit: each decides alike
    same(first["rows"], alone)
    assert len({row["response_length"] for row in alone}) == 3  # answers end early, at many lengths
    if kind == "lora":
        assert alone[0]["epochs"] < 4  # and all stop together
    if kind == "full":  # the update has really moved it
        assert abs(alone[2]["kl_k3"]) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_really_split(found, kind, tiny_model):
    copies = 3 if kind == "full" else 1  # policy, reference and critic
    for process in found["two"]:
        whole, split = (process["results"][f"{kind}-{weights}"] for weights in ("whole", "split"))
        assert (whole["split"], whole["placements"]) == (0, [])
        assert split["placements"] == ["(Shard(dim=0),)"]
        assert split["split"] == copies * LAYER_WEIGHTS
        assert split["held"] == split["split"] / 2
        assert split["whole"] + split["split"] == whole["whole"]


# attention 4 * 32 * 32, MLP 3 * 32 * 64, two norms of 32, in two layers
LAYER_WEIGHTS = 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["whole", "split"])
def test_checkpoints_resume_on_another_number_of_processes(found, kind, weights):
    alone = found["one"][kind]["rows"]
    same(found["resumed"][f"{kind}-{weights}"]["rows"], alone[1:])  # 2 -> 1
    for process in found["two"]:
        same(process["results"][f"{kind}-{weights}-resumed"]["rows"], alone[1:])  # 1 -> 2


def test_what_processes_say_to_each_other(found):
    first, second = (process["talk"] for process in found["two"])
    # dealt by length, there and back; five rows do not go round, so the shortest is dealt twice
    assert (first.pop("even"), second.pop("even")) == ([3, 0, 4], [5, 1, 2])
    assert (first.pop("uneven"), second.pop("uneven")) == ([3, 4, 2], [1, 0, 3])
    assert first == second
    assert first == {
        "alone": [0],
        "in_shares": [0, 10, 20, 30, 40],
        "filled": [[row, row] for row in (1.0, 2.0, 3.0, 4.0, 5.0)],
        "gradients": [[2.0, 1.0], [1.0, 1.0]],
        "figures": {"a": 3.0, "b": 1.0},
        "largest": 1.0,
        "from_main": {"rank": 0},
        "failures": ["RewardError: no score", "RuntimeError: Unsendable: a lock, two words"],
        "refusal": "2 processes cannot share a minibatch of 3 answers (episodes / minibatches) equally: "
        "make it a multiple of 2",
    }


def test_one_process_does_everything_in_order():
    assert share(torch.tensor([5, 3, 9])).tolist() == [0, 1, 2]


def test_sharding_by_the_launcher_is_refused(monkeypatch):
    refuse_foreign_sharding()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(AlignmentError, match="set shard=true"):
        refuse_foreign_sharding()


@pytest.fixture
def config_file(tiny_model, reward_folder, tmp_path):
    return write_ppo_config(
        tmp_path,
        tiny_model,
        reward=str(reward_folder),
        tuning={"method": "full"},
        iterations=4,
        learning_rate=1e-3,
        save_every=2,
    )


def errors(stderr):
    return [line for line in stderr.splitlines() if line.startswith("error:")]


def rows(folder: Path, file: str):
    return [json.loads(line) for line in (folder / file).read_text().splitlines()]


@pytest.mark.slow
def test_an_error_in_one_process_stops_all_with_one_line(config_file, tmp_path):
    reward = "reward=python:tests.alignment.ppo_processes_worker:fails_on_one"
    done = launch(2, *ALIGN, "ppo", "-c", config_file, f"run={tmp_path / 'run'}", reward, "shard=true")
    assert done.returncode == 1
    (line,) = errors(done.stderr)
    assert "no reward today" in line
    assert "--resume goes on after iteration 0" in line
    assert saved_steps(tmp_path / "run" / "checkpoints") == [0]  # all have learned of it, and saved together


@pytest.mark.slow
def test_a_killed_process_stops_all(config_file, tmp_path):
    reward = "reward=python:tests.alignment.ppo_processes_worker:dies_on_one"
    done = launch(2, *ALIGN, "ppo", "-c", config_file, f"run={tmp_path / 'run'}", reward)
    assert done.returncode == 1
    assert "SIGKILL" in done.stderr  # the launcher says so
    assert all("killed for want of memory?" in line for line in errors(done.stderr))


@pytest.mark.slow
def test_the_command_resumes_on_another_number_of_processes(config_file, tmp_path):
    held_out = tmp_path / "held_out.jsonl"  # three prompts do not go round two processes
    held_out.write_text("".join(json.dumps({"prompt": f"and {i}"}) + "\n" for i in range(3)))
    probe = {"prompts": str(held_out), "gold": "python:tests.reward.scoring_rules:length", "every": 1}
    config_file.write_text(config_file.read_text() + yaml.safe_dump({"probe": probe}))
    assert align(["ppo", "-c", str(config_file), f"run={tmp_path / 'one'}"]) == 0
    two = ["ppo", "-c", config_file, f"run={tmp_path / 'two'}", "shard=true", "--json"]
    begun = launch(2, *ALIGN, *two, "iterations=2")
    assert begun.returncode == 0, begun.stderr
    assert json.loads(begun.stdout)["iterations"] == 2  # said once
    assert begun.stderr.count("PPO: policy after 2 iterations") == 1
    assert align([*map(str, two[:4]), "shard=false", "iterations=3", "--resume"]) == 0
    ended = launch(2, *ALIGN, *two, "--resume")
    assert ended.returncode == 0, ended.stderr
    for file in ("metrics.jsonl", "probe.jsonl"):
        same(rows(tmp_path / "two", file), rows(tmp_path / "one", file))
    for policy in ("model", "best"):
        one, two = (load_file(tmp_path / name / policy / "model.safetensors") for name in ("one", "two"))
        assert one.keys() == two.keys()
        assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    assert saved_steps(tmp_path / "two" / "checkpoints") == [3, 4]
