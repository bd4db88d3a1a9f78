"""The suite of tasks: what it counts, against a plain forward and a plain generation; and the alarm in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.errors import AlignmentError
from alignment.models import load_policy, load_tokenizer
from alignment.sft import train_sft
from alignment.sft_losses import losses
from alignment.sft_tasks import measure, normal, read_tasks
from alignment.tuning.apply import apply_tuning
from alignment.tuning.config import TuningConfig
from tests.alignment.sft_runs import sft_config, write

CHOICES = [
    {
        "question": f"Where is guest {i}?",
        "choices": ["in the garden cafe, near the bridge", "away", "fish"],
        "answer": i % 3,
    }
    for i in range(7)
]


def conversation(tokenizer: Any, prompt: str, answer: str | None = None) -> list[int]:
    turns = [{"role": "user", "content": prompt}]
    if answer is None:
        return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    turns.append({"role": "assistant", "content": answer})
    return tokenizer.apply_chat_template(turns, return_dict=False)


def test_the_likeliest_choice_a_token_is_chosen(tiny_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load_policy(str(tiny_model)), load_tokenizer(str(tiny_model))
    tasks = read_tasks(write(tmp_path / "tasks.jsonl", CHOICES), tokenizer, 200)
    right = 0
    for row in CHOICES:
        means = []
        for choice in row["choices"]:
            n = len(conversation(tokenizer, row["question"]))
            whole = conversation(tokenizer, row["question"], choice)
            with torch.no_grad():
                logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            means.append(
                sum(logprobs[i - 1, whole[i]].item() for i in range(n, len(whole))) / (len(whole) - n)
            )
        right += means.index(max(means)) == row["answer"]
    for rows in (1, 4):
        assert measure(model, tokenizer, tasks, rows) == {
            "accuracy": right / 7,
            "multiple_choice": right / 7,
        }
    by_text = [{**row, "answer": row["choices"][row["answer"]]} for row in CHOICES]
    assert read_tasks(write(tmp_path / "texts.jsonl", by_text), tokenizer, 200) == tasks


def test_greedy_answers_are_matched_whatever_the_batch(tiny_model: Path, tmp_path: Path) -> None:
    """The model's own greedy answers are the right ones, of every second question."""
    model, tokenizer = load_policy(str(tiny_model)), load_tokenizer(str(tiny_model))
    rows: list[dict[str, Any]] = []
    for i, prompt in enumerate(
        ["Is it?", "Where is the river inn, and is it cheap?", "Why not?", "Thank you!"]
    ):
        ids = torch.tensor([conversation(tokenizer, prompt)])
        with torch.no_grad():
            said = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
        answer = tokenizer.decode(said, skip_special_tokens=True)
        rows.append({"prompt": prompt, "answer": ["another", answer] if i % 2 else "another"})
    tasks = read_tasks(write(tmp_path / "tasks.jsonl", rows), tokenizer, 200)
    tasks = type(tasks)([], [type(q)(q.prompt, q.answers, 4) for q in tasks.questions])
    for batch in (1, 3):
        assert measure(model, tokenizer, tasks, batch) == {"accuracy": 0.5, "exact_match": 0.5}


@pytest.mark.parametrize("method", ["prompt", "p_tuning", "prefix"])
def test_trained_prompts_are_measured_with_what_they_say(
    method: str, tiny_model: Path, tmp_path: Path
) -> None:
    """Against the model's own loss of one choice at a time, and its own answers to one question at a time."""
    torch.manual_seed(3)
    model = apply_tuning(load_policy(str(tiny_model)), TuningConfig(method=method), "CAUSAL_LM").eval()
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data.normal_()
    tokenizer = load_tokenizer(str(tiny_model))
    tasks = read_tasks(write(tmp_path / "tasks.jsonl", CHOICES), tokenizer, 200)
    examples = [choice for task in tasks.choices for choice in task.choices]
    with torch.no_grad():
        alone = [
            model(input_ids=torch.tensor([one.input_ids]), labels=torch.tensor([one.labels])).loss.item()
            for one in examples
        ]
    assert losses(model, examples, 4) == pytest.approx(alone, rel=1e-4)
    rows = []
    for prompt in ("Is it?", "Where is the river inn, and is it cheap?"):
        ids = torch.tensor([conversation(tokenizer, prompt)])
        with torch.no_grad():
            said = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
        new = said[0, ids.shape[1] :] if said.shape[1] > ids.shape[1] else said[0]
        rows.append({"prompt": prompt, "answer": tokenizer.decode(new, skip_special_tokens=True)})
    tasks = read_tasks(write(tmp_path / "tasks.jsonl", rows), tokenizer, 200)
    tasks = type(tasks)([], [type(q)(q.prompt, q.answers, 4) for q in tasks.questions])
    assert measure(model, tokenizer, tasks, 2)["exact_match"] == 1


def test_what_an_exact_match_passes_over() -> None:
    assert normal(" Near the\nBridge. ") == normal("near the bridge")
    assert normal("四２。") == normal("四2")
    assert normal("-5") != normal("5")


def test_the_alarm_is_raised_when_tasks_are_unlearnt(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First the model learns which choice is right, then to say another thing."""

    def taught(run: str, answer: str, model: Path, **keys: Any) -> dict[str, Any]:
        rows = [{"prompt": row["question"], "completion": answer} for row in CHOICES * 3]
        data = write(tmp_path / f"{run}.jsonl", rows)
        keys = {"tuning": {"method": "full"}, "max_steps": 45, "save_every": 20} | keys
        return train_sft(sft_config(model, tmp_path / run, data=data, **keys))

    tasks = [{**row, "answer": "away"} for row in CHOICES]
    tasks += [{"prompt": row["question"], "answer": "Away."} for row in CHOICES[:5]]
    suite = write(tmp_path / "tasks.jsonl", tasks)
    learnt = taught("learns", "away", tiny_model, general_tasks=suite)
    assert learnt["tasks"] == {"accuracy": 1.0, "multiple_choice": 1.0, "exact_match": 1.0}
    assert learnt["tasks_before"]["exact_match"] == 0
    assert not learnt["tasks_alarm"]
    assert "forgetting" not in capsys.readouterr().err
    forgot = taught("forgets", "fish", tmp_path / "learns", general_tasks=suite, patience=9)
    assert forgot["tasks_before"] == learnt["tasks"]
    assert forgot["tasks"]["accuracy"] == 0
    assert forgot["tasks_alarm"]
    said = " ".join(capsys.readouterr().err.split())
    assert "forgetting: at step 20 the model does" in said
    assert "of `general_tasks`, and did 100.0%" in said
    rows = [json.loads(line) for line in (tmp_path / "forgets" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "tasks_accuracy" in row] == [20, 40, 45]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "choices": ["b"], "answer": 0}, "two texts or more"),
        ({"prompt": "a", "choices": ["b", "b"], "answer": 0}, "are the same"),
        ({"prompt": "a", "choices": ["b", "c"], "answer": 2}, "its place from 0, not 2"),
        ({"prompt": "a", "choices": ["b", "c"], "answer": True}, "its place from 0, not True"),
        ({"prompt": "a", "choices": ["b", "c"], "answer": ["b"]}, "its place from 0"),
        ({"prompt": "a", "choices": ["b", " "], "answer": 0}, "empty completion"),
        ({"prompt": "a"}, "`answer` must be a text"),
        ({"prompt": "a", "answer": [" "]}, "`answer` must be a text"),
        ({"answer": "b"}, "`prompt` must be a text"),
        ({"prompt": "word " * 300, "answer": "b"}, "longer than max_length"),
        (None, "is empty"),
    ],
)
def test_tasks_that_cannot_be_used(
    row: dict[str, Any] | None, said: str, tiny_model: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "tasks.jsonl", [CHOICES[0], row] if row else [])
    with pytest.raises(AlignmentError, match=said) as error:
        read_tasks(path, load_tokenizer(str(tiny_model)), 200)
    assert "row 2" in str(error.value) or row is None
