"""The demo's pipeline, with budgets so small that only its plumbing is tried: real commands, real folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignment.demo import notes, pipeline
from alignment.demo.pipeline import CONFIGS, Demo, load_task, run_demo
from alignment.demo.report import print_demo
from alignment.errors import AlignmentError, ConfigError

TINY: dict[str, dict[str, Any]] = {
    "sft": {
        "scratch": {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 2, "intermediate_size": 64},
        "max_steps": 3,
    },
    "rollout": {"limit": 24},
    "judge": {},
    "reward": {"epochs": 1},
    "dpo": {"epochs": 1},
    "ppo": {"iterations": 1, "episodes": 8, "minibatches": 2, "epochs": 1},
    "eval": {"limit": 4},
}
SAMPLING = {"max_new_tokens": 8}
STEPS = ["data", "sft", "rollout", "people", "judge", "snapshot", "reward", "dpo", "ppo", "eval"]


def shrink(folder: Path) -> None:
    for name, changes in TINY.items():
        file = folder / "configs" / f"{name}.yaml"
        values = yaml.safe_load(file.read_text()) | changes
        file.write_text(yaml.safe_dump(values | ({"sampling": SAMPLING} if "sampling" in values else {})))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A whole demo that was stopped after its first step, made tiny, and resumed with seed 1."""
    folder = tmp_path_factory.mktemp("demo") / "it"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "REFERENCES", 200)
        patch.setattr(pipeline, "PROMPTS", 40)
        patch.setattr(pipeline, "TEST_PROMPTS", 8)
        patch.setattr(Demo, "train_base", stop)
        with pytest.raises(KeyboardInterrupt):
            run_demo(folder, seed=1)
    shrink(folder)
    return folder, run_demo(folder, seed=1, resume=True)


def stop(_: Demo) -> None:
    raise KeyboardInterrupt


def test_the_summary_holds_what_is_promised(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = finished
    promised = {
        "seconds", "seed", "base.success", "dpo.success", "ppo.success", "dpo.kl", "ppo.kl", "labels.human",
        "labels.judge", "agreement.judge_human", "memory.peak_gib", "reward.pairs",
    }  # fmt: skip
    assert promised | {f"seconds.{step}" for step in STEPS} <= figures.keys()
    assert json.loads((folder / "summary.json").read_text()) == figures
    assert figures["seed"] == 1
    assert figures["base.kl"] == 0
    assert figures["labels.human"] == figures["labels.scripted"] > 0
    assert 0 < figures["labels.judge"] <= figures["comparisons"] <= 24
    assert figures["prompts"] == 4
    assert figures["seconds"] == pytest.approx(sum(figures[f"seconds.{step}"] for step in STEPS))


def test_every_run_got_the_seed_and_its_own_folder(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    for name in ("sft", "rollout", "reward", "dpo", "ppo", "eval"):
        config = yaml.safe_load((folder / name / "config.yaml").read_text())
        assert (config["seed"], config["run"]) == (1, str(folder / name))
    for name in ("reward", "dpo"):
        data = Path(yaml.safe_load((folder / name / "config.yaml").read_text())["data"])
        assert data.parent == folder / "snapshot"
        assert data.resolve().name == json.loads((data / "manifest.json").read_text())["hash"][:16]


def test_the_report_and_the_table_show_all_three(
    finished: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, figures = finished
    page = (folder / "report.html").read_text()
    for text in (
        "Win rates",
        "scripted annotators",
        "stand-in judge",
        "PPO: KL to the base",
        "Note for a guest",
    ):
        assert text in page
    print_demo(folder, figures)
    shown = capsys.readouterr().out
    assert "fully right" in shown
    assert str(folder / "report.html") in "".join(shown.split("\n"))
    assert f"align label --store {folder / 'store.db'}" in "".join(shown.split("\n"))


def test_a_finished_demo_is_not_run_again_unasked(
    finished: tuple[Path, dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, figures = finished
    with pytest.raises(AlignmentError, match=r"--resume.*--overwrite"):
        run_demo(folder, seed=1)
    with pytest.raises(AlignmentError, match="task notes and seed 1"):
        run_demo(folder, seed=2, resume=True)
    again = run_demo(folder, seed=1, resume=True)
    assert capfd.readouterr().err.count("done before") == len(STEPS)
    assert {**again, "memory.peak_gib": 0} == {**figures, "memory.peak_gib": 0}


def test_a_failing_step_says_how_to_go_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    demo = Demo(tmp_path / "it", notes, 0)
    demo.begin(overwrite=False, resume=False)
    with pytest.raises(AlignmentError, match=rf"align demo --folder {tmp_path}/it --resume"):
        demo.command("label", "stats", "--store", demo.store)
    shown = capfd.readouterr()
    assert f"$ align label stats --store {tmp_path}/it/store.db" in shown.err
    assert shown.out == ""


def test_what_is_no_demo_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(AlignmentError, match="holds no demo"):
        run_demo(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_overwriting_starts_from_an_empty_folder(tmp_path: Path) -> None:
    demo = Demo(tmp_path / "it", notes, 0)
    demo.begin(overwrite=False, resume=False)
    (demo.folder / "leftover").touch()
    Demo(tmp_path / "it", notes, 5).begin(overwrite=True, resume=False)
    assert [p.name for p in demo.folder.iterdir()] == ["demo.json"]


def test_the_configs_are_found_where_the_package_is() -> None:
    from importlib import resources

    folder = resources.files("alignment.demo") / "configs"
    assert {f"{name}.yaml" for name in CONFIGS} <= {file.name for file in folder.iterdir()}


def test_real_data_takes_its_own_oracle(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data PATH"):
        load_task("e2e", None)
    with pytest.raises(ConfigError, match="leave --data out"):
        load_task("notes", tmp_path)
    rows = [{"mr": f"name[Inn {i}], food[French]", "ref": f"Inn {i} is French."} for i in range(60)]
    data = tmp_path / "e2e.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    demo = Demo(tmp_path / "it", load_task("e2e", data), 0)
    demo.begin(overwrite=False, resume=False)
    demo.make_data()
    config = yaml.safe_load(demo.config("eval").read_text())
    assert config["check"] == "alignment.demo.e2e:check"
    assert config["policies"]["base"] == str(tmp_path / "it" / "sft")
    held_out = {
        json.loads(line)["prompt"][0]["content"] for line in (demo.folder / "data/test_prompts.jsonl").open()
    }
    seen = {json.loads(line)["prompt"][0]["content"] for line in (demo.folder / "data/sft.jsonl").open()}
    assert held_out
    assert not held_out & seen
