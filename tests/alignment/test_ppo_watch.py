"""What is told of a run while it goes: the table on a terminal, lines elsewhere, the rows of timings.jsonl."""

import os
import pty
import re
import sys
from io import StringIO
from threading import Thread

import pytest
from rich.console import Console

from alignment.cli import run
from alignment.ppo.screen import log_line, table
from alignment.ppo.watch import rewind, timings
from alignment.runs import RunFolder
from tests.alignment.ppo_config import write_ppo_config

METRICS = {
    "score_mean": 0.5,
    "score_std": 0.25,
    "kl": 2.5,
    "kl_k3": 2.25,
    "response_length": 12.5,
    "truncated": 0.125,
    "entropy": 1.5,
    "ratio_mean": 1.0,
    "ratio_max": 1.5,
    "policy_clipped": 0.05,
    "update_kl": 0.002,
    "engine_gap_mean": 1e-6,
    "engine_gap_max": 2e-5,
}
CRITIC = {"value_clipped": 0.1, "explained_variance": 0.75}
TIMING = {"seconds": {"generate": 2.0, "train": 3.0}, "tokens_per_second": {"all": 1234.0}}


def drawn(iterations, width):
    """The lines of the table as a terminal of that width shows them."""
    console = Console(file=StringIO(), width=width)
    console.print(table(iterations, width))
    return [line.strip() for line in console.file.getvalue().splitlines()]


def iteration(number, **more):
    return {"iteration": number, **METRICS, **more}, TIMING


def test_the_table_has_every_figure_that_is_watched():
    lines = drawn([iteration(1, disagreement=0.3, **CRITIC)], 80)
    shown = {re.split(r"\s{2,}", line)[0]: re.split(r"\s{2,}", line)[1] for line in lines if "  " in line}
    assert shown == {
        "iteration": "1",
        "score, mean ± std": "0.5 ± 0.25",
        "disagreement": "0.3",
        "KL to reference, k1 / k3": "2.50 / 2.25",
        "tokens an answer, cut off": "12.5, 12%",
        "entropy": "1.5",
        "ratio, mean / max": "1.0000 / 1.5",
        "clipped, policy / value": "5.0% / 10.0%",
        "KL of the update": "0.002",
        "explained variance": "0.75",
        "engine gap, mean / max": "1e-06 / 2e-05",
        "tokens/s": "1,234",
        "seconds": "5.00",
        "generate": "2.00",
        "train": "3.00",
    }


def test_the_table_without_a_critic_says_nothing_of_one():
    text = "\n".join(drawn([iteration(1)], 80))
    assert "explained variance" not in text
    assert "5.0% / –" in text


@pytest.mark.parametrize(("width", "numbers"), [(80, "1 8 9"), (100, "1 7 8 9"), (20, "1 9")])
def test_the_table_keeps_the_first_iteration_and_the_last_that_fit(width, numbers):
    lines = table([iteration(i) for i in range(1, 10)], width).columns
    assert " ".join(str(column.header) for column in lines[1:]) == numbers


def test_odd_figures_do_not_widen_the_table():
    odd = {"kl": -1234.5678, "kl_k3": 2.9e-05, "score_mean": -1.23e-05, "ratio_max": float("inf")}
    lines = drawn([iteration(1), iteration(2, **odd), iteration(3)], 80)
    assert lines[1].split() == ["iteration", "1", "2", "3"]
    assert max(map(len, lines)) < 80


def test_a_log_line_has_the_same_figures():
    line = log_line(*iteration(3, **CRITIC), 10)
    assert line.startswith("PPO: 3/10: score, mean ± std 0.5 ± 0.25; KL to reference, k1 / k3 2.50 / 2.25;")
    assert line.endswith("1,234 tokens/s; 5.00 s (generate 2.00, train 3.00)")
    assert "\n" not in line


def test_speeds_by_hand():
    row = timings(
        {"iteration": 2, "response_length": 10.0}, {"generate": 2.0, "train": 4.0, "sync": 2.0}, episodes=8
    )
    assert row == {
        "iteration": 2,
        "tokens": 80,
        "seconds": {"generate": 2.0, "train": 4.0, "sync": 2.0},
        "tokens_per_second": {"generate": 40.0, "train": 20.0, "sync": 40.0, "all": 10.0},
    }


def test_rewinding_forgets_what_came_after(tmp_path):
    folder = RunFolder(tmp_path)
    for number in (1, 2, 2, 3):
        folder.log({"iteration": number}, "samples.jsonl")
    folder.log({"iteration": 3}, "alarms.jsonl")
    rewind(folder, 2)
    assert [row["iteration"] for row in folder.rows("samples.jsonl")] == [1, 2, 2]
    assert folder.rows("alarms.jsonl") == []


@pytest.fixture
def config_file(tiny_model, reward_folder, tmp_path):
    return write_ppo_config(
        tmp_path, tiny_model, reward=str(reward_folder), iterations=3, save_every=2, alarms={"truncated": 1.0}
    )


def test_without_a_terminal_there_are_lines(config_file, tmp_path, capsys):
    assert run(["ppo", "-c", str(config_file)]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if re.match(r"PPO: \d+/3: ", line)]
    assert [line[:8] for line in said] == ["PPO: 1/3", "PPO: 3/3"]  # what lies between came too soon
    folder = RunFolder(tmp_path / "run")
    assert folder.rows("timings.jsonl")[0]["seconds"].keys() == {
        *("generate", "score", "assess", "train", "sync")
    }
    assert folder.summary["tokens_per_second"] > 0
    assert not any("second" in key for row in folder.rows() for key in row)


def test_on_a_terminal_there_is_a_table(config_file, tmp_path, monkeypatch):
    for name, value in {"COLUMNS": "80", "LINES": "40", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    reading, writing = pty.openpty()
    shown = bytearray()

    def read() -> None:
        while b"the end" not in shown:
            shown.extend(os.read(reading, 65536))

    reader = Thread(target=read)
    reader.start()
    with open(writing, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        probe = (
            "probe.gold=python:tests.reward.scoring_rules:length",
            "probe.prompts=" + str(tmp_path / "prompts.jsonl"),
        )
        code = run(["ppo", "-c", str(config_file), *probe, "tuning.method=full", "learning_rate=1e-2"])
        print("the end", file=terminal, flush=True)
        reader.join()
    os.close(reading)
    assert code == 0
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).rpartition("3/3")[2]
    assert re.search(r"iteration\s+1\s+2\s+3\s", last)
    assert re.search(r"engine gap, mean / max\s+\de-", last)
    first, final = (row["gold_mean"] for row in RunFolder(tmp_path / "run").rows("probe.jsonl"))
    assert f"{first:.3g}" != f"{final:.3g}"
    assert re.search(rf"gold score, last probe\s+{first:.3g}\s+{first:.3g}\s+{final:.3g}\s", last)
