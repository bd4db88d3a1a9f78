"""DPO on soft labels: equal to TRL where labels are hard; its reference, its run folder, its resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.dpo import DPOConfig, build_trainer, plan, prepare, train_dpo
from alignment.dpo.config import LossConfig
from alignment.dpo.data import answer_ids, tokenize_pairs
from alignment.dpo.reference import cache_key, kept
from alignment.dpo.trainer import Collator, PreferenceTrainer
from alignment.errors import AlignmentError
from alignment.models import load_policy, load_tokenizer
from alignment.preferences import load_preferences
from alignment.runs import RunFolder
from alignment.trainer_progress import quiet_arguments
from alignment.tuning.apply import apply_tuning, peft_config
from alignment.tuning.config import TuningConfig
from reward.errors import RewardError

GOOD, BAD = "thank you, by the river", "no. it is what it is"


def row(number: int, chosen: str = GOOD, rejected: str = BAD, **labels: Any) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": f"where is inn {number}?"}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "p_chosen": 1.0,
        "weight": 1.0,
        "margin": 0.0,
        "comparison_id": number,
    } | labels


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """40 pairs; one has two equal sides, one is far too long."""
    rows = [row(i, p_chosen=0.95) for i in range(40)]
    rows[3]["rejected"] = rows[3]["chosen"]
    rows[4] = row(4, rejected="no " * 150)
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def config(tiny_model: Path, pairs: Path, **keys: Any) -> DPOConfig:
    defaults = {
        "run": str(pairs.parent / "run"),
        "policy": {"path": str(tiny_model)},
        "data": str(pairs),
        "tuning": {"rank": 4},
        "learning_rate": 3e-3,
        "epochs": 3,
        "batch_size": 8,
        "microbatch": 8,
        "max_length": 128,
    }
    return DPOConfig(**(defaults | keys))


def trainer_of(settings: DPOConfig) -> tuple[PreferenceTrainer, Dataset]:
    """The trainer of a run before its first step, and the held-out pairs."""
    run = RunFolder.create(Path(settings.run), settings)
    tokenizer = load_tokenizer(settings.policy.path)
    train, test, _ = prepare(settings, load_preferences(str(settings.data)), tokenizer, run)
    return build_trainer(settings, tokenizer, train, test, run), test


def loss_and_gradient(
    kind: Any,
    tiny_model: Path,
    folder: Path,
    rows: list[dict[str, Any]],
    *,
    in_line: bool = True,
    method: str = "lora",
    **keys: Any,
) -> torch.Tensor:
    """Of one batch, with the weights moved off the reference, as one vector."""
    tokenizer = load_tokenizer(str(tiny_model))
    ours = kind is PreferenceTrainer
    data = Dataset.from_list(rows)
    policy = load_policy(str(tiny_model))
    arguments = {"per_device_train_batch_size": len(rows), "beta": 0.3, **quiet_arguments()}
    more: dict[str, Any] = {}
    if ours:
        data = tokenize_pairs(data, tokenizer, 256, split="train", reject=pytest.fail)
        settings = LossConfig(**({"beta": 0.3} | keys))
        more = {
            "settings": settings,
            "max_length": 256 if in_line else 1 << 20,
            "cache": folder / "reference",
        }
        more["data_collator"] = Collator(tokenizer.pad_token_id, torch.empty(0))
        if not in_line:
            policy.config.sliding_window = 256  # which is not asked about by this build
    else:
        arguments |= {
            "loss_type": keys.get("loss", "sigmoid"),
            "label_smoothing": keys.get("label_smoothing", 0),
        }
    trainer = kind(
        model=policy,
        args=trl.DPOConfig(str(folder), precompute_ref_log_probs=True, **arguments),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=peft_config(TuningConfig(method=method, rank=4), "CAUSAL_LM", policy),
        **more,
    )
    if ours:
        assert trainer.data_collator.in_line == in_line
    torch.manual_seed(0)
    moved = "lora_B" if method == "lora" else "weight"
    for name, weight in trainer.model.named_parameters():
        if moved in name:
            torch.nn.init.normal_(weight, std=0.3)
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    watched = "lora_A" if method == "lora" else "weight"
    gradient = [w.grad.flatten() for n, w in trainer.model.named_parameters() if watched in n]
    return torch.cat([loss.detach()[None], *gradient])


@pytest.mark.parametrize(
    ("method", "in_line", "keys"),
    [
        ("lora", True, {}),
        ("lora", False, {}),
        ("full", True, {}),
        ("lora", True, {"loss": "ipo"}),
        ("lora", True, {"loss": "hinge"}),
        ("lora", True, {"loss": "robust", "label_smoothing": 0.1}),
    ],
)
def test_hard_labels_equal_trl(
    tiny_model: Path, tmp_path: Path, method: str, in_line: bool, keys: dict[str, Any]
) -> None:
    rows = [row(i, chosen=GOOD + "!" * i) for i in range(8)]
    ours = loss_and_gradient(
        PreferenceTrainer, tiny_model, tmp_path, rows, method=method, in_line=in_line, **keys
    )
    theirs = loss_and_gradient(trl.DPOTrainer, tiny_model, tmp_path, rows, method=method, **keys)
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-4)
    assert abs(theirs[0].item() - 0.6931) > 1e-3  # the weights did move it off log 2
    assert theirs[1:].abs().max() > 1e-3


def test_a_swapped_pair_at_p_zero_equals_the_pair(tiny_model: Path, tmp_path: Path) -> None:
    there = loss_and_gradient(PreferenceTrainer, tiny_model, tmp_path, [row(i) for i in range(8)])
    swapped = [row(i, chosen=BAD, rejected=GOOD, p_chosen=0.0) for i in range(8)]
    assert torch.allclose(
        there, loss_and_gradient(PreferenceTrainer, tiny_model, tmp_path, swapped), atol=1e-6
    )


def test_weights_scale_pairs(tiny_model: Path, tmp_path: Path) -> None:
    rows = [row(i) for i in range(4)]
    plain = loss_and_gradient(PreferenceTrainer, tiny_model, tmp_path, rows)
    double = loss_and_gradient(PreferenceTrainer, tiny_model, tmp_path, [r | {"weight": 2.0} for r in rows])
    assert torch.allclose(2 * plain, double, atol=1e-5)


def test_pair_ids_split_where_the_answer_begins(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    one = row(1)
    ids = answer_ids(tokenizer, one["prompt"], one["chosen"], one["rejected"])
    assert tokenizer.decode(ids["prompt_ids"]) == "<|user|>where is inn 1?<|end|><|assistant|>"
    assert tokenizer.decode(ids["first_ids"]) == GOOD + "<|end|>"
    assert tokenizer.decode(ids["second_ids"]) == BAD + "<|end|>"


def test_a_template_that_ends_a_lone_prompt_otherwise(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<|assistant|>{% endif", "<|assistant|>think{% endif"
    )
    one = row(1)
    ids = answer_ids(tokenizer, one["prompt"], one["chosen"], one["rejected"])
    assert tokenizer.decode(ids["prompt_ids"]) == "<|user|>where is inn 1?<|end|><|assistant|>"
    assert tokenizer.decode(ids["first_ids"]) == GOOD + "<|end|>"


def test_qlora_learns(tiny_model: Path, pairs: Path) -> None:
    settings = config(tiny_model, pairs, tuning={"method": "qlora", "rank": 4})
    figures = train_dpo(settings)
    losses = [r["loss"] for r in RunFolder(Path(settings.run)).rows() if "loss" in r]
    assert losses[0] == pytest.approx(0.6931, abs=0.01)
    assert losses[-1] < 0.6  # repacked 4-bit layers would make it rise
    assert figures["accuracy"] == 1.0


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_learns_and_saves(tiny_model: Path, pairs: Path, method: str) -> None:
    settings = config(tiny_model, pairs, tuning={"method": method, "rank": 4})
    figures = train_dpo(settings)
    assert figures["accuracy"] == 1.0
    assert figures["margin"] > 0.3
    assert figures["left_out"] == {"both sides are the same": 1, "longer than 128 tokens": 1}
    run = Path(settings.run)
    assert len((run / "rejects.jsonl").read_text().splitlines()) == 2
    assert json.loads((run / "summary.json").read_text()) == figures
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] == pytest.approx(0.6931, abs=0.01)  # the policy is its reference at first
    assert rows[0]["loss"] > rows[-2]["loss"]
    assert not any("runtime" in key or "per_second" in key for r in rows for key in r)
    assert "train_steps_per_second" in (run / "timings.jsonl").read_text()

    # the model as saved prefers the good answer by the margin that was reported
    policy, reference = load_policy(str(run)), load_policy(str(tiny_model))
    assert isinstance(policy, PeftModel) == (method == "lora")
    test = load_preferences(pairs).test
    margins = []
    for pair in test:
        ids = answer_ids(load_tokenizer(str(run)), pair["prompt"], pair["chosen"], pair["rejected"])
        ratio = {
            side: answer_logprob(policy, ids, side) - answer_logprob(reference, ids, side)
            for side in ("first", "second")
        }
        margins.append(0.1 * (ratio["first"] - ratio["second"]))
    assert sum(margins) / len(margins) == pytest.approx(figures["margin"], abs=1e-3)


def answer_logprob(model: Any, ids: dict[str, list[int]], side: str) -> float:
    tokens = torch.tensor([ids["prompt_ids"] + ids[f"{side}_ids"]])
    with torch.no_grad():
        logprobs = model(tokens).logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])
    return float(logprobs[len(ids["prompt_ids"]) - 1 :].sum())


def test_soft_labels_bound_the_margin(tiny_model: Path, tmp_path: Path) -> None:
    margins = []
    for p in (1.0, 0.6):
        path = tmp_path / f"{p}.jsonl"
        path.write_text("".join(json.dumps(row(i, p_chosen=p)) + "\n" for i in range(40)))
        margins.append(
            train_dpo(
                config(
                    tiny_model, path, run=str(tmp_path / f"run{p}"), epochs=6, learning_rate=1e-2, beta=1.0
                )
            )["margin"]
        )
    assert margins[1] == pytest.approx(0.405, abs=0.3)  # log(0.6 / 0.4)
    assert margins[0] > 2


def test_the_microbatch_changes_nothing(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    margins = [
        train_dpo(config(tiny_model, pairs, run=str(tmp_path / str(micro)), microbatch=micro, epochs=1))[
            "margin"
        ]
        for micro in (8, 2)
    ]
    assert margins[0] == pytest.approx(margins[1], rel=1e-3)


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """A policy that is not its base."""
    start = apply_tuning(load_policy(str(tiny_model)), TuningConfig(rank=2), "CAUSAL_LM")
    for name, weight in start.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    start.save_pretrained(tmp_path / "sft")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "sft")
    return tmp_path / "sft"


def test_going_on_with_an_adapter_refers_to_that_adapter(
    tiny_model: Path, adapter: Path, pairs: Path
) -> None:
    settings = config(tiny_model, pairs, policy={"path": str(adapter)})
    figures = train_dpo(settings)
    assert figures["accuracy"] == 1.0
    run = RunFolder(Path(settings.run))
    assert run.rows()[0]["loss"] == pytest.approx(0.6931, abs=0.01)  # not so against the bare base
    assert sorted(p.name for p in run.model.iterdir() if p.is_dir()) == []  # one adapter, the trained one
    with pytest.raises(AlignmentError, match="for full tuning start from a whole model"):
        train_dpo(
            config(tiny_model, pairs, policy={"path": str(adapter)}, tuning={"method": "full"}),
            overwrite=True,
        )


def test_pad_equal_to_eos_does_not_hide_the_end(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "base")
    margins = [
        train_dpo(config(tiny_model, pairs, policy={"path": str(base)}, run=str(tmp_path / name), epochs=1))[
            "margin"
        ]
        for name, base in (("a", tiny_model), ("b", tmp_path / "base"))
    ]
    assert margins[0] == pytest.approx(margins[1], abs=1e-6)


@pytest.mark.parametrize("start", ["tiny_model", "adapter"])
@pytest.mark.parametrize("killed", ["in its last checkpoint", "after training"])
def test_a_resumed_run_equals_an_unbroken_one(
    tiny_model: Path, pairs: Path, start: str, killed: str, request: pytest.FixtureRequest
) -> None:
    settings = config(tiny_model, pairs, save_every=5, policy={"path": str(request.getfixturevalue(start))})
    figures, run = train_dpo(settings), RunFolder(Path(settings.run))
    rows, weights = run.rows(), (run.model / "adapter_model.safetensors").read_bytes()
    steps = sorted(int(p.name.partition("-")[2]) for p in run.checkpoints.glob("checkpoint-*"))
    assert steps == [10, 14]
    if killed == "in its last checkpoint":  # what there is of it has no end
        (run.checkpoints / "checkpoint-14" / "trainer_state.json").write_text('{"global_st')
    shutil.rmtree(run.model)
    assert train_dpo(settings, resume=True) == figures
    assert run.rows() == rows
    assert (run.model / "adapter_model.safetensors").read_bytes() == weights
    with pytest.raises(AlignmentError, match="beta, save_every changed"):
        train_dpo(config(tiny_model, pairs, beta=0.5, policy=settings.policy), resume=True)


def test_what_cannot_be_done_is_said(tiny_model: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(AlignmentError, match="max_length=512 exceeds the policy's context of 256"):
        train_dpo(config(tiny_model, pairs, max_length=512))
    with pytest.raises(AlignmentError, match="already exists"):
        train_dpo(config(tiny_model, pairs))
    with pytest.raises(AlignmentError, match="no train pair is left at max_length=8"):
        train_dpo(config(tiny_model, pairs, max_length=8), overwrite=True)
    classifier = AutoModelForCausalLM.from_pretrained(tiny_model).config
    classifier.architectures = ["LlamaForSequenceClassification"]
    shutil.copytree(tiny_model, tmp_path / "rm")
    classifier.save_pretrained(tmp_path / "rm")
    with pytest.raises(AlignmentError, match="is a reward model"):
        train_dpo(config(tiny_model, pairs, policy={"path": str(tmp_path / "rm")}), overwrite=True)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "is empty: it needs rows with prompt, chosen and rejected"),
        (
            [row(1, chosen=BAD), row(2, rejected=" ")],
            "no pair to train on .1 x both sides are the same, 1 x rej",
        ),
        ([row(i, p_chosen=0.5) for i in range(9)], "every train pair is a tie"),
        ([row(i, weight=0.0) for i in range(9)], "weights sum to 0"),
    ],
)
def test_data_that_teaches_nothing_is_refused(
    tiny_model: Path, tmp_path: Path, rows: list[dict[str, Any]], said: str
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises((AlignmentError, RewardError), match=said):
        train_dpo(config(tiny_model, path))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_layers_that_run_again_in_the_backward_see_the_same_attention(
    tiny_model: Path, tmp_path: Path, method: str
) -> None:
    settings = config(
        tiny_model, tmp_path / "pairs", run=str(tmp_path / "run"), tuning={"method": method, "rank": 4}
    )
    tokenizer = load_tokenizer(str(tiny_model))
    data = tokenize_pairs(
        Dataset.from_list([row(i) for i in range(8)]), tokenizer, 128, split="train", reject=pytest.fail
    )
    run = RunFolder(tmp_path / "run")
    gradients = []
    for checkpointing in (False, True):
        trainer = build_trainer(settings, tokenizer, data, data.select([]), run)
        trainer.args.gradient_checkpointing = checkpointing
        if checkpointing:
            trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
            trainer.model.enable_input_require_grads()
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        torch.manual_seed(0)
        for name, weight in trainer.model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.3)
        batch = trainer.data_collator(list(trainer.train_dataset))
        loss = trainer.training_step(trainer.model, batch)
        grads = [w.grad.flatten() for w in trainer.model.parameters() if w.grad is not None]
        gradients.append(torch.cat([loss[None], *grads]))
    assert gradients[0][1:].abs().max() > 1e-4
    assert torch.allclose(*gradients, atol=1e-6)


def test_without_held_out_pairs_there_are_no_held_out_figures(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(row(0)) + "\n")
    assert len(load_preferences(path).test) == 0
    figures = train_dpo(config(tiny_model, path))
    assert "accuracy" not in figures
    assert figures["train_pairs"] == 1


def test_the_plan(tiny_model: Path, pairs: Path) -> None:
    settings = config(tiny_model, pairs)
    planned = plan(settings)
    data = load_preferences(pairs)
    assert planned["optimizer steps"] == round(3 * len(data.train) / 8)
    run = RunFolder.create(Path(settings.run), settings)
    tokenizer = load_tokenizer(str(tiny_model))
    trainer = build_trainer(settings, tokenizer, *prepare(settings, data, tokenizer, run)[:2], run)
    assert (
        abs(trainer.args.max_steps - planned["optimizer steps"]) <= 1
    )  # the plan has not seen the long pair


@pytest.mark.parametrize("in_line", [True, False])
def test_held_out_scores_are_in_the_order_of_the_rows(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_line: bool
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row(i, chosen=GOOD + "!" * (i * 7 % 11))) + "\n" for i in range(80)))
    settings = config(tiny_model, path, microbatch=2, loss="cpo")
    monkeypatch.setattr(PreferenceTrainer, "_goes_in_line", lambda *_: in_line)
    trainer, test = trainer_of(settings)
    found, _ = trainer.held_out_scores(trainer.get_eval_dataloader())
    expected = [0.1 * answer_logprob(trainer.model, ids, "first") for ids in test]
    assert found == pytest.approx(expected, rel=1e-4)
    assert len(set(test["length"])) > 2


def test_what_the_reference_says_is_kept_for_the_next_run(
    tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    ask = PreferenceTrainer._reference
    monkeypatch.setattr(
        PreferenceTrainer, "_reference", lambda self, rows: asked.append(len(rows)) or ask(self, rows)
    )
    first = train_dpo(config(tiny_model, pairs, epochs=1))
    assert asked == [36, 2]  # train and held-out pairs
    again = train_dpo(config(tiny_model, pairs, epochs=1, run=str(pairs.parent / "again")))
    assert again == first
    trainer_of(config(tiny_model, pairs, run=str(pairs.parent / "beta"), beta=0.3))
    assert len(asked) == 2
    policy = {"path": str(pairs.parent / "run")}  # another policy is another question
    trainer_of(config(tiny_model, pairs, run=str(pairs.parent / "on"), policy=policy))
    assert len(asked) == len(list((pairs.parent / ".reference").iterdir())) == 4


def test_the_key_of_what_is_kept() -> None:
    rows = Dataset.from_list([{"prompt_ids": [1], "first_ids": [2, 3], "second_ids": [4], "p_first": 1.0}])
    other = Dataset.from_list([{"prompt_ids": [1], "first_ids": [2], "second_ids": [3, 4], "p_first": 1.0}])
    relabelled = Dataset.from_list([rows[0] | {"p_first": 0.5}])
    assert cache_key(rows, "model") == cache_key(relabelled, "model")
    assert len({cache_key(rows, "model"), cache_key(other, "model"), cache_key(rows, "other")}) == 3


def test_a_file_of_another_count_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "reference.json"
    assert kept(file, 1, lambda: [[-1.0, -2.0]]) == [[-1.0, -2.0]]
    assert kept(file, 1, lambda: pytest.fail("asked again")) == [[-1.0, -2.0]]
    assert kept(file, 2, lambda: [[-3.0, -2.0]] * 2) == [[-3.0, -2.0]] * 2


@pytest.mark.parametrize("loss", ["ipo", "hinge", "robust", "simpo", "cpo", "orpo"])
def test_every_loss_learns(tiny_model: Path, pairs: Path, loss: str) -> None:
    keys = {"label_smoothing": 0.05} if loss == "robust" else {}
    train_dpo(config(tiny_model, pairs, loss=loss, epochs=1, learning_rate=1e-2, **keys))
    losses = [r["loss"] for r in RunFolder(pairs.parent / "run").rows() if "loss" in r]
    assert losses[-1] < losses[0]
    reference_free = loss in {"simpo", "cpo", "orpo"}
    assert (pairs.parent / ".reference").exists() != reference_free
