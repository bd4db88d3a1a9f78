"""The command line: quick help with examples, one readable line for an error, exit codes that scripts can use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main

from alignment.cli import app, run

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "sqlalchemy", "pandas", "sklearn", "matplotlib")


def commands() -> list[list[str]]:
    """Every command as its words, groups unfolded."""

    def unfold(command: typer.main.click.Command, words: list[str]) -> list[list[str]]:
        inner = getattr(command, "commands", None)
        return [path for name, c in inner.items() for path in unfold(c, [*words, name])] if inner else [words]

    return unfold(typer.main.get_command(app), [])


def align(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from alignment.cli import main; main()", *argv],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", **environment},
        check=False,
    )


def test_there_is_a_command_for_each_part_of_the_loop() -> None:
    names = {" ".join(words) for words in commands()}
    assert {
        "demo", "sft", "rollout", "serve", "dpo", "ppo", "eval", "data import", "data snapshot", "judge run",
        "label stats", "reward train",
    } <= names  # fmt: skip


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_help_shows_an_example_of_this_very_command(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Example: align " + " ".join(words) in text


def test_help_loads_nothing_heavy_and_is_quick() -> None:
    code = (
        "import sys; from alignment.cli import run; assert run(['--help']) == 0; "
        f"sys.exit([m for m in {HEAVY!r} if m in sys.modules] or 0)"
    )
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
        )
        seconds.append(time.perf_counter() - started)
        assert done.stderr == ""
        assert done.returncode == 0
        assert "align demo" in done.stdout
    assert min(seconds) < 2  # 0.3 on an idle machine; loading torch alone takes more than this on a busy one


@pytest.mark.parametrize("argv", [[], ["data"], ["judge"]])
def test_a_command_without_arguments_shows_its_help(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(argv) == 2
    shown = capsys.readouterr()
    assert "Usage: align" in shown.out + shown.err
    assert "error" not in shown.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["ppo", "--nonsense"], "No such option: --nonsense"),
        (["ppo", "lerning_rate=1"], "did you mean 'learning_rate'?"),
        (["eval", "samples=many"], "samples: "),
        (["rollout", "--config", "configs/rolout.yaml"], "did you mean configs/rollout.yaml?"),
        (["rollout", "completions"], "not of the form key.sub=value"),
        (["demo", "--task", "e2e"], "give --data PATH"),
        (["demo", "--seed", "-1"], "--seed"),
    ],
)
def test_wrong_use_is_exit_code_2_and_names_the_remedy(
    argv: list[str], message: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(argv) == 2
    shown = capfd.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_a_failure_is_exit_code_1_and_one_line(tmp_path: Path) -> None:
    done = align(
        "rollout", f"run={tmp_path}/r", f"policy.path={tmp_path}/gone", f"prompts={tmp_path}/gone.jsonl"
    )
    assert done.returncode == 1
    assert done.stderr == f"error: no file {tmp_path}/gone.jsonl\n"
    assert done.stdout == ""


def test_debug_shows_where(tmp_path: Path) -> None:
    done = align("rollout", "--debug", "run=r", "policy.path=p", f"prompts={tmp_path}/gone.jsonl")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert f"AlignmentError: no file {tmp_path}/gone.jsonl" in done.stderr


def test_a_fault_of_our_own_says_so(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("alignment.config.load_config", broken)
    assert run(["ppo"]) == 1
    assert (
        "ZeroDivisionError: of all things (a fault in align? --debug shows where)" in capfd.readouterr().err
    )


def test_an_interrupt_is_exit_code_130(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("alignment.config.load_config", interrupted)
    assert run(["ppo"]) == 130
    assert "interrupted" in capfd.readouterr().err


def test_json_is_all_that_standard_output_gets(
    tmp_path: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "the inn"}\n{"prompt": "the cafe"}\n')
    model, small = f"policy.path={tiny_model}", "sampling.max_new_tokens=4"
    code = run(["rollout", f"run={tmp_path}/r", model, f"prompts={prompts}", "store=null", small, "--json"])
    assert code == 0
    assert json.loads(capfd.readouterr().out)["answers"] == 4
    policy = f"policies.base={tiny_model}"
    assert run(["eval", f"run={tmp_path}/e", policy, f"prompts={prompts}", small, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["prompts"] == 2


def test_a_dry_run_prints_yaml_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml

    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text('{"prompt": "the inn"}\n')
    assert run(["rollout", "run=r", "policy.path=owner/name", "prompts=prompts.jsonl", "--dry-run"]) == 0
    shown = capfd.readouterr().out
    assert yaml.safe_load(shown)["policy"]["path"] == "owner/name"
    assert "# answers: 2" in shown
    assert [p.name for p in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_the_shell_completes_commands() -> None:
    done = align(_ALIGN_COMPLETE="complete_bash", COMP_WORDS="align ro", COMP_CWORD="1")
    assert done.stdout.split() == ["rollout"]
    assert "_align_completion" in align(_ALIGN_COMPLETE="source_bash").stdout


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ("rollout", "rollout.yaml"),
        ("rollout", "demo/rollout.yaml"),
        ("eval", "eval.yaml"),
        ("eval", "demo/eval.yaml"),
    ],
)
def test_the_configs_that_come_along_are_valid(words: str, file: str) -> None:
    from alignment.config import load_config
    from alignment.evaluation.config import EvalConfig
    from alignment.rollouts import RolloutConfig

    kind = {"rollout": RolloutConfig, "eval": EvalConfig}[words]
    assert load_config(kind, ROOT / "configs" / file).seed == 0
