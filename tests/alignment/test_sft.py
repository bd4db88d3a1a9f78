"""SFT end to end on tiny real models: it learns, it repeats itself bit for bit, and it names bad input."""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignment.config import load_config
from alignment.demo import notes
from alignment.errors import AlignmentError, ConfigError
from alignment.models import load_policy, load_tokenizer
from alignment.sft import SFTConfig, plan, train_sft

SCRATCH = (
    "scratch={hidden_size: 32, layers: 1, heads: 2, kv_heads: 1, intermediate_size: 48, vocab_size: 400}"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "sft.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in notes.references(120, 0)))
    return path


def config(folder, data, *overrides: str) -> SFTConfig:
    values = [f"run={folder}", f"data={data}", "max_length=128", "batch_size=16", "microbatch=16", *overrides]
    return load_config(SFTConfig, None, values)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("runs") / "sft"
    settings = config(folder, data, SCRATCH, "max_steps=12", "learning_rate=1e-2", "held_out=10")
    return folder, train_sft(settings)


def test_a_new_model_learns(trained):
    folder, figures = trained
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 1
    assert figures["held_out_loss"] < losses[0] - 1
    assert not any("runtime" in key or "per_second" in key for row in rows for key in row)
    assert figures == json.loads((folder / "summary.json").read_text())
    assert (figures["steps"], figures["examples"], figures["held_out"]) == (12, 110, 10)
    assert load_tokenizer(str(folder)).chat_template
    assert load_policy(str(folder)).num_parameters() == figures["parameters"]


def test_held_out_loss_is_that_of_the_saved_model_on_answers_only(trained, data):
    folder, figures = trained
    tokenizer, model = load_tokenizer(str(folder)), load_policy(str(folder))
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    random.Random(0).shuffle(rows)
    total = tokens = 0.0
    for row in rows[:10]:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=True)[
            "input_ids"
        ]
        n = len(prompt["input_ids"])
        with torch.no_grad():
            logprobs = model(torch.tensor([whole])).logits[0, n - 1 : -1].log_softmax(-1)
        total -= logprobs.gather(-1, torch.tensor(whole[n:])[:, None]).sum().item()
        tokens += len(whole) - n
        assert whole[-1] == tokenizer.eos_token_id
    assert figures["held_out_loss"] == pytest.approx(total / tokens, abs=1e-4)


def test_the_same_config_gives_the_same_weights(trained, data, tmp_path):
    folder, figures = trained
    overrides = (SCRATCH, "max_steps=12", "learning_rate=1e-2", "held_out=10")
    again = train_sft(config(tmp_path / "again", data, *overrides))
    one, two = (load_file(f / "model" / "model.safetensors") for f in (folder, tmp_path / "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert (folder / "metrics.jsonl").read_text() == (tmp_path / "again" / "metrics.jsonl").read_text()
    assert again["held_out_loss"] == figures["held_out_loss"]


def test_microbatches_do_not_change_the_result(trained, data, tmp_path):
    folder, _ = trained
    settings = config(
        tmp_path / "micro", data, SCRATCH, "max_steps=12", "learning_rate=1e-2", "held_out=10", "microbatch=4"
    )
    again = train_sft(settings)
    assert again["held_out_loss"] == pytest.approx(trained[1]["held_out_loss"], rel=1e-4)
    one, two = (
        [json.loads(line).get("grad_norm", 0) for line in (f / "metrics.jsonl").read_text().splitlines()]
        for f in (folder, tmp_path / "micro")
    )
    assert one == pytest.approx(two, rel=1e-3)


def test_lora_on_a_given_model_writes_an_adapter_that_goes_on_learning(tiny_model, data, tmp_path):
    shared = ("max_steps=4", "learning_rate=1e-2", "tuning.rank=4")
    first = train_sft(config(tmp_path / "first", data, f"model.path={tiny_model}", *shared))
    assert (tmp_path / "first" / "model" / "adapter_config.json").exists()
    assert first["trainable_share"] < 0.5
    second = train_sft(config(tmp_path / "second", data, f"model.path={tmp_path / 'first'}", *shared))
    assert second["held_out_loss"] < first["held_out_loss"]
    base = load_file(tiny_model / "model.safetensors")
    policy = load_policy(str(tmp_path / "second")).unload()
    assert torch.equal(policy.model.embed_tokens.weight, base["model.embed_tokens.weight"])


def test_what_cannot_be_trained_on_is_counted_with_its_reason(data, tmp_path, capsys):
    rows = [json.loads(line) for line in data.read_text().splitlines()][:30]
    rows[3]["completion"][0]["content"] = " "
    rows[5]["prompt"][0]["content"] = "word " * 300
    rows[7]["completion"][0]["content"] = "word " * 300
    path = tmp_path / "some_bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = train_sft(config(tmp_path / "run", path, SCRATCH, "max_steps=1"))
    assert figures["examples"] + figures["held_out"] == 27
    assert sorted(figures["left_out"].values()) == [1, 1, 1]
    dropped = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    assert [(d["row"], d["reason"].split(" (")[0]) for d in dropped] == [
        (4, "empty completion"),
        (6, "prompt longer than max_length"),
        (8, "prompt and completion longer than max_length"),
    ]
    assert "left out 1 examples: empty completion" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": "a", ', "line 2: not valid JSON"),
        ('{"question": "a"}\n', "row 1: needs `prompt` and `completion`, or `messages`; it has 'question'"),
        ('{"prompt": 3, "completion": "b"}\n', "row 1: `prompt` must be a text or a list"),
        ('{"prompt": "a", "completion": ""}\n' * 3, r"0 of 3 rows can be trained on.*3 x empty completion"),
    ],
)
def test_data_that_cannot_be_read(tiny_model, tmp_path, text, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(AlignmentError, match=message):
        train_sft(config(tmp_path / "run", path, f"model.path={tiny_model}"))


def test_a_resumed_run_equals_an_unbroken_one(trained, data, tmp_path):
    folder, figures = trained
    settings = config(
        tmp_path / "run", data, SCRATCH, "max_steps=12", "learning_rate=1e-2", "held_out=10", "save_every=5"
    )
    with pytest.raises(KeyboardInterrupt), interrupted_at(7):
        train_sft(settings)
    again = train_sft(settings, resume=True)
    assert (again["held_out_loss"], again["tokens"]) == (figures["held_out_loss"], figures["tokens"])
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()
    one, two = (load_file(f / "model" / "model.safetensors") for f in (folder, tmp_path / "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@contextmanager
def interrupted_at(step: int):
    """Ctrl-C at the end of an optimizer step."""
    from alignment.trainer_progress import RunProgress

    original = RunProgress.on_step_end

    def stop(self, args, state, control, **kwargs):
        original(self, args, state, control, **kwargs)
        if state.global_step == step:
            raise KeyboardInterrupt

    RunProgress.on_step_end = stop
    try:
        yield
    finally:
        RunProgress.on_step_end = original


def test_an_adapter_cannot_be_tuned_in_full_nor_a_context_exceeded(tiny_model, data, tmp_path):
    train_sft(config(tmp_path / "lora", data, f"model.path={tiny_model}", "max_steps=1"))
    with pytest.raises(AlignmentError, match="is an adapter"):
        train_sft(config(tmp_path / "a", data, f"model.path={tmp_path / 'lora'}", "tuning.method=full"))
    with pytest.raises(AlignmentError, match="max_length=300 exceeds the model's context of 256"):
        train_sft(config(tmp_path / "b", data, f"model.path={tiny_model}", "max_length=300"))


def test_qlora_learns_on_a_4_bit_base(tiny_model, data, tmp_path):
    settings = config(
        tmp_path / "run",
        data,
        f"model.path={tiny_model}",
        "tuning.method=qlora",
        "learning_rate=1e-2",
        "max_steps=12",
    )
    figures = train_sft(settings)
    losses = [
        json.loads(line).get("loss") for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert figures["held_out_loss"] < losses[0] - 0.05
    assert (tmp_path / "run" / "model" / "adapter_config.json").exists()


def test_a_run_that_is_there_is_not_overwritten(trained, data):
    folder, _ = trained
    before = (folder / "summary.json").read_text()
    with pytest.raises(AlignmentError, match="already exists"):
        train_sft(config(folder, data, SCRATCH))
    assert (folder / "summary.json").read_text() == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "exactly one of `model`"),
        (["model.path=a", SCRATCH], "exactly one of `model`"),
        ([SCRATCH, "tuning.method=lora"], "nothing to adapt"),
        ([SCRATCH, "max_length=512"], "exceeds the new model's"),
        ([SCRATCH, "microbatch=5"], "multiple of microbatch"),
        ([SCRATCH, "learning_rat=1"], "did you mean 'learning_rate'"),
    ],
)
def test_configs_that_make_no_sense(tmp_path, data, overrides, message):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path / "run", data, *overrides)


def test_the_plan_counts_what_training_would_do(trained, tiny_model, data, tmp_path):
    _, figures = trained
    planned = plan(config(tmp_path / "run", data, SCRATCH, "max_steps=12", "held_out=10"))
    assert planned["optimizer steps"] == figures["steps"]
    assert planned["tokens"] == pytest.approx(figures["tokens"], rel=0.05)
    assert (
        f"{figures['parameters']:,}, of which trained {figures['parameters']:,} (100" in planned["parameters"]
    )
    lora = plan(config(tmp_path / "run", data, f"model.path={tiny_model}", "epochs=2", "max_length=256"))
    assert lora["optimizer steps"] == round(2 * (120 - 12) / 16)
    assert "100.00%" not in lora["parameters"]
    assert not (tmp_path / "run").exists()


def test_the_command(data, tmp_path, capsys):
    from alignment.cli import run as align

    arguments = [
        "sft",
        f"run={tmp_path / 'run'}",
        f"data={data}",
        SCRATCH,
        "max_length=128",
        "max_steps=1",
        "microbatch=32",
    ]
    assert align([*arguments, "--dry-run"]) == 0
    assert "# optimizer steps: 1" in capsys.readouterr().out
    assert align([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1
    assert align(arguments) == 1
    assert "already exists" in capsys.readouterr().err
    assert align([*arguments, "batch_size=none"]) == 2


@pytest.mark.parametrize("file", ["sft.yaml", "sft_qlora.yaml", "sft_teacher.yaml", "demo/sft.yaml"])
def test_configs_that_come_along(file):
    folder = Path(__file__).resolve().parents[2] / "configs"
    assert load_config(SFTConfig, folder / file, ["data=mine.jsonl"]).data == "mine.jsonl"
