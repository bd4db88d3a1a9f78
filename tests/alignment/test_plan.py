"""`align plan` and `align tune list`: what is recommended fits, and follows the rules that it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig

from alignment.cli import run as align
from alignment.console import output
from alignment.errors import AlignmentError
from alignment.footprint import GIB
from alignment.tuning.advice import Machine, Purpose, Work, memory, recommend
from alignment.tuning.methods import METHODS
from alignment.tuning.table import LLAMA_8B, figures_of, llama_8b, markdown

# 1.5 billion weights in one wide layer: quick to count
WIDE = LlamaConfig(
    vocab_size=32000, hidden_size=8192, intermediate_size=28672, num_hidden_layers=1, num_attention_heads=64
)
SMALL, MIDDLE, LARGE = (Machine(n * GIB, gpu=True) for n in (3, 8, 60))


def plan(
    machine: Machine, examples: int = 0, pairs: int = 0, purpose: Purpose = "production", tokens: int = 512
):
    return recommend(Work(WIDE, machine, examples, pairs, tokens, purpose))


def test_room_makes_the_method() -> None:
    for machine, method in ((SMALL, "qlora"), (MIDDLE, "lora")):
        (stage,) = plan(machine, examples=5000).stages
        assert stage.method == method
        assert stage.memory_gib * GIB <= machine.budget
    assert plan(LARGE, examples=60_000).stages[0].method == "full"
    assert plan(LARGE, examples=5000).stages[0].method == "lora"  # too few for every weight


def test_the_batch_is_as_large_as_fits() -> None:
    work = Work(WIDE, SMALL, examples=5000, tokens=512)
    (stage,) = recommend(work).stages
    assert stage.microbatch < stage.batch_size
    assert stage.batch_size % stage.microbatch == 0
    assert memory(work, stage.method, 2 * stage.microbatch) > SMALL.budget


def test_stages_come_in_order_and_rewards_with_enough_pairs() -> None:
    few, many = (plan(MIDDLE, examples=2000, pairs=pairs, tokens=256) for pairs in (2000, 20_000))
    assert [stage.command for stage in few.stages] == ["sft", "dpo"]
    assert [stage.command for stage in many.stages] == ["sft", "reward train", "dpo"]
    assert any("enough for a reward model" in reason for reason in many.reasons)


def test_purposes_have_rules_of_their_own() -> None:
    assert plan(MIDDLE, examples=500, purpose="prototype").stages[0].method == "prompt"
    private = plan(MIDDLE, examples=60_000, purpose="private")
    assert private.stages[0].method == "lora"
    assert any("private data stays" in reason for reason in private.reasons)


def test_sequences_are_shortened_before_giving_up() -> None:
    found = plan(SMALL, examples=5000, tokens=16_384)
    assert found.stages[0].max_length < 2048  # the model's own context is no more
    assert any("sequences are cut" in reason for reason in found.reasons)
    with pytest.raises(AlignmentError, match=r"nothing fits in 1 GiB, of lora, qlora down to 256 tokens"):
        plan(Machine(GIB, gpu=True), examples=5000)


def test_what_is_printed_can_be_run(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--gpu-memory", "2", "--examples", "300", "--pairs", "300", "--tokens", "64"]
    assert align(["plan", str(tiny_model), *options, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["stages"]) == 2
    assert align(["plan", str(tiny_model), *options]) == 0
    shown = capsys.readouterr().out
    assert "align sft run=runs/sft model.path=" in shown
    assert "align dpo run=runs/dpo policy.path=runs/sft" in shown


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ([], 1, "give --examples"),
        (["--examples", "10", "--for", "fun"], 2, "prototype, production, private"),
        (["--gpu-memory", "0.1"], 2, "gpu-memory"),
    ],
)
def test_one_readable_line(
    words: list[str], code: int, line: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert align(["plan", str(tiny_model), *words]) == code
    assert line in capsys.readouterr().err


def test_the_list_names_every_method(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "width", 200)
    assert align(["tune", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(method in shown for method in METHODS)
    assert "2106.09685" in shown


def test_the_docs_hold_the_table() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs" / "tuning.md"
    assert markdown(LLAMA_8B) in docs.read_text(encoding="utf-8"), (
        "python -m alignment.tuning.table prints it"
    )


def test_the_figures_are_those_of_the_models() -> None:
    some = ("qlora", "pfeiffer")
    assert figures_of(llama_8b(), some) == {
        m: (pytest.approx(LLAMA_8B[m][0], abs=1e-6), pytest.approx(LLAMA_8B[m][1], abs=0.06)) for m in some
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_the_figures_are_those_of_the_models() -> None:
    assert figures_of(llama_8b()) == {
        m: (pytest.approx(share, abs=1e-6), pytest.approx(gib, abs=0.06))
        for m, (share, gib) in LLAMA_8B.items()
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_estimates_are_within_a_fifth_of_what_is_held() -> None:
    from benchmarks.tuning_memory import measure

    figures = measure(quick=False)
    assert len([name for name in figures if name.endswith("_error")]) == 10
    assert figures["largest_error"] < 0.2
