"""Distillation on random models: the divergence by hand, that it falls, and that what is told means what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alignment.config import load_config
from alignment.errors import AlignmentError, ConfigError
from alignment.models import load_policy, load_tokenizer
from alignment.sft import SFTConfig, plan, prepare, read_data, train_sft
from alignment.sft_data import Encoded
from tests.alignment.sft_runs import batches, sft_config, write
from tests.alignment.test_sft import interrupted_at

ROWS = [{"prompt": f"guest {i}?", "completion": "fish near " * (1 + i % 5)} for i in range(24)]


@pytest.fixture(scope="module")
def teacher(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wider and deeper than the student, sharper, and with its vocabulary rounded up, as families of models have it."""
    from transformers import AutoConfig, LlamaForCausalLM

    torch.manual_seed(5)
    config = AutoConfig.from_pretrained(tiny_model)
    config.hidden_size, config.num_hidden_layers, config.vocab_size = 48, 3, config.vocab_size + 16
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data *= 20
    folder = tmp_path_factory.mktemp("teacher")
    model.save_pretrained(folder)
    load_tokenizer(str(tiny_model)).save_pretrained(folder)
    return folder


def kl(teacher: Path, student: Path, examples: list[Encoded]) -> float:
    """KL(teacher || student) a token of the answers, in nats."""
    one, two = load_policy(str(teacher)), load_policy(str(student))
    total, tokens = 0.0, 0
    for example in examples:
        with torch.no_grad():
            ids = torch.tensor([example.input_ids])
            p, q = (m(ids).logits[0, :-1, : two.config.vocab_size].log_softmax(-1) for m in (one, two))
        answer = torch.tensor(example.labels[1:]) != -100
        total += (p.exp() * (p - q)).sum(-1)[answer].sum().item()
        tokens += int(answer.sum())
    return total / tokens


def keys(path: Path, folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "data": write(folder / "data.jsonl", ROWS),
        "teacher": {"path": str(path), "beta": 0},
        "tuning": {"method": "full"},
        "max_steps": 25,
        "held_out": 2,
        **more,
    }


def test_the_student_comes_nearer_to_its_teacher(tiny_model: Path, teacher: Path, tmp_path: Path) -> None:
    config = sft_config(tiny_model, tmp_path / "taught", **keys(teacher, tmp_path))
    held_out = prepare(config, read_data(config), load_tokenizer(str(tiny_model))).held_out
    figures = train_sft(config)
    before, after = (kl(teacher, path, held_out) for path in (tiny_model, tmp_path / "taught"))
    assert after < 0.5 * before
    assert figures["teacher_divergence_before"] == pytest.approx(before, rel=1e-4)
    assert figures["teacher_divergence"] == pytest.approx(after, rel=1e-4)
    alone = train_sft(sft_config(tiny_model, tmp_path / "alone", **keys(teacher, tmp_path, teacher=None)))
    assert kl(teacher, tmp_path / "alone", held_out) > before > after  # the answers are not the teacher's
    assert "teacher_divergence" not in alone

    # the held-out loss is the plain one: the answers', though they are not what is learnt
    model, nats, tokens = load_policy(str(tmp_path / "taught")), 0.0, 0
    for example in held_out:
        with torch.no_grad():
            logits = model(torch.tensor([example.input_ids])).logits[0, :-1]
        labels = torch.tensor(example.labels[1:])
        nats += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        tokens += int((labels != -100).sum())
    assert figures["held_out_loss"] == pytest.approx(nats / tokens, rel=1e-4)
    assert "teacher" in plan(config)


@pytest.mark.parametrize(
    "beta", [pytest.param(0, marks=pytest.mark.slow), 0.5, pytest.param(1, marks=pytest.mark.slow)]
)
def test_microbatches_do_not_change_what_is_learnt(
    beta: float, tiny_model: Path, teacher: Path, tmp_path: Path
) -> None:
    norms = []
    for microbatch in (1, 4):
        run = tmp_path / str(microbatch)
        told = {"path": str(teacher), "beta": beta}
        more = keys(teacher, tmp_path, teacher=told, microbatch=microbatch, max_steps=2)
        train_sft(sft_config(tiny_model, run, **more))
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        norms.append([(row["loss"], row["grad_norm"]) for row in rows if "grad_norm" in row])
    assert norms[0][0] == pytest.approx(norms[1][0], rel=1e-4)
    assert norms[0][1] == pytest.approx(norms[1][1], rel=1e-3)


def test_a_prompt_can_be_taught(tiny_model: Path, teacher: Path, tmp_path: Path) -> None:
    more = keys(teacher, tmp_path, tuning={"method": "prompt"}, max_steps=8)
    figures = train_sft(sft_config(tiny_model, tmp_path / "run", **more))
    assert figures["teacher_divergence"] < figures["teacher_divergence_before"]


def test_a_student_is_taught_on_its_own_answers(
    tiny_model: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is trained on: the prompts of the data, and answers that the student samples, to their first end."""
    told = {"path": str(teacher), "beta": 1, "on_policy": 1}
    more = keys(teacher, tmp_path, teacher=told, max_steps=12)
    with batches(monkeypatch) as seen:
        figures = train_sft(sft_config(tiny_model, tmp_path / "run", **more))
    assert figures["teacher_divergence"] < 0.9 * figures["teacher_divergence_before"]
    tokenizer = load_tokenizer(str(tiny_model))
    prompts, texts = {row["prompt"] for row in ROWS}, {row["completion"] for row in ROWS}
    found = []
    for batch in seen:
        for ids in batch:
            asked, answer = tokenizer.decode(ids).removeprefix("<|user|>").split("<|end|><|assistant|>", 1)
            assert asked in prompts
            assert tokenizer.eos_token_id not in ids[ids.index(tokenizer.eos_token_id) + 1 : -1]
            found.append(answer.removesuffix("<|end|>"))
    assert len(set(found)) > 40  # of 48: sampled
    assert not texts & set(found)


@pytest.mark.slow
def test_a_resumed_lesson_equals_an_unbroken_one(tiny_model: Path, teacher: Path, tmp_path: Path) -> None:
    told = {"path": str(teacher), "on_policy": 0.5}
    more = keys(teacher, tmp_path, teacher=told, max_steps=6, save_every=2, tuning={"rank": 2})
    whole = train_sft(sft_config(tiny_model, tmp_path / "whole", **more))
    config = sft_config(tiny_model, tmp_path / "broken", **more)
    with pytest.raises(KeyboardInterrupt), interrupted_at(3):
        train_sft(config)
    again = train_sft(config, resume=True)
    assert again["teacher_divergence_before"] == whole["teacher_divergence_before"]
    assert again["teacher_divergence"] == whole["teacher_divergence"]
    one, two = (
        load_file(tmp_path / run / "model" / "adapter_model.safetensors") for run in ("whole", "broken")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_teacher_of_another_vocabulary_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", ROWS)
    scratch = {
        "hidden_size": 32,
        "layers": 1,
        "heads": 2,
        "kv_heads": 1,
        "intermediate_size": 48,
        "vocab_size": 280,
    }
    other = {
        "run": str(tmp_path / "other"),
        "data": data,
        "max_length": 128,
        "max_steps": 1,
        "scratch": scratch,
    }
    train_sft(SFTConfig.model_validate(other))
    config = sft_config(tiny_model, tmp_path / "run", data=data, teacher={"path": str(tmp_path / "other")})
    with pytest.raises(AlignmentError, match="has another vocabulary than the student"):
        train_sft(config)
    for more, said in (
        (["teacher={path: t, beta: 2}"], r"teacher\.beta"),
        (["teacher={path: t, on_policy: 0.5}", "packing=true"], "drop packing, and trained prompts"),
        (["teacher={path: t, on_policy: 0.5}", "tuning.method=prefix"], "drop packing, and trained prompts"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_config(SFTConfig, None, ["run=x", "model.path=y", "data=z", *more])
