"""What the benchmark on E2E measures and labels, by hand on small answers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from alignment.demo.e2e import to_prompt
from benchmarks.chrf import chrf
from benchmarks.ppo_e2e import e2e_file, preferred, wrong_facts

PROMPT = to_prompt("name[The Eagle], food[French], area[riverside]")
RIGHT = "The Eagle serves French food by the river."


def test_chrf_by_hand() -> None:
    # "ab" against "abc": runs of 1 and of 2 are in both; precision 1 and 1, recall 2/3 and 1/2
    recall = (2 / 3 + 1 / 2) / 2
    assert chrf("a b", ["abc"]) == pytest.approx(100 * 5 * recall / (4 + recall))
    assert chrf("abc", ["abd", "abc"]) == 100  # the best reference counts
    assert chrf("xyz", ["abc"]) == chrf("", ["abc"]) == 0


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (RIGHT, 0),
        (RIGHT.removesuffix("."), 0),  # bad form is not a matter of facts
        (RIGHT.replace("French ", ""), 1),
        (RIGHT.replace("French", "Indian"), 2),  # missing, and told otherwise
        (RIGHT.replace("river", "river, for families"), 1),  # made up
    ],
)
def test_wrong_facts_by_hand(answer: str, wrong: int) -> None:
    assert wrong_facts(PROMPT, answer) == wrong


def test_the_scripted_annotator_looks_at_facts_only() -> None:
    clumsy, wrong = RIGHT.removesuffix("."), RIGHT.replace("French", "Indian")
    (pair,) = preferred(PROMPT, [wrong, clumsy, ""], random.Random(0))
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == (clumsy, wrong)
    assert preferred(PROMPT, [RIGHT, clumsy, RIGHT], random.Random(0)) == []  # equally right: no pair


def test_data_that_is_not_there_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_SHARED", str(tmp_path))
    with pytest.raises(SystemExit, match=r"no E2E data at .*: set ALIGN_SHARED"):
        e2e_file()
