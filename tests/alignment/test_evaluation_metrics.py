"""Task metrics: values worked by hand, corpus figures against sacrebleu's own, Chinese, missing right answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.cli import run as align
from alignment.errors import AlignmentError
from alignment.evaluation.metrics import METRICS, TaskMetrics, exact_match, f1, load_references, squad_words
from alignment.evaluation.statistics import bootstrap_mean, bootstrap_sums
from alignment.runs import RunFolder


def of(answer: str, *right: str, metrics: tuple[str, ...] = METRICS) -> dict[str, float]:
    return TaskMetrics(metrics, [right]).of_answer(answer, 1)


def test_squads_normalisation_by_hand() -> None:
    assert squad_words("The  Inn's an old—one, AN inn!") == ["inns", "oldone", "inn"]
    assert squad_words("河边的 inn，好。") == ["河", "边", "的", "inn", "好"]
    assert exact_match("The inn.", ["a pub", "inn"]) == 1
    assert exact_match("an inn", ["two inns"]) == 0
    # 2 of 3 words of the answer, 2 of 4 of the right one
    assert f1("the old river inn", ["an old inn by bridges"]) == pytest.approx(2 * 2 / (3 + 4))
    assert (f1("", ["inn"]), f1("the", ["a"]), f1("河边", ["河中"])) == (0, 1, 0.5)


def test_rouge_by_hand() -> None:
    found = of("the cat sat on the mat", "the cat lay on the mat")
    assert found["rouge_1"] == pytest.approx(5 / 6)
    assert found["rouge_2"] == pytest.approx(3 / 5)
    assert found["rouge_l"] == pytest.approx(5 / 6)
    # the best of several; without Chinese words there would be nothing to count
    assert of("河边的旅店", "山上", "河边旅店")["rouge_1"] == pytest.approx(2 * 4 / (5 + 4))


def test_a_perfect_answer_has_the_highest_of_each() -> None:
    found = of("There is an old inn by the river.", "There is an old inn by the river.")
    assert found == pytest.approx({m: 100 if m in ("bleu", "chrf") else 1 for m in METRICS})


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=3))
def test_every_metric_of_any_text_is_within_its_range(answer: str, right: list[str]) -> None:
    for name, value in of(answer, *right).items():
        assert 0 <= value <= (100 + 1e-6 if name in ("bleu", "chrf") else 1), name


ANSWERS = [
    "the old inn by the river",
    "a cheap cafe",
    "it is not far from the bridge",
    "no",
    "yes it is",
    "fish",
]
RIGHT = [
    ["the inn by the old river", "an inn"],
    ["a cheap cafe near us"],
    ["it is far from the bridge", "no idea"],
]


def test_corpus_bleu_is_no_mean_of_sentences_but_sacrebleus_own() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    metrics = TaskMetrics(("bleu", "chrf"), RIGHT)
    rows = [1, 1, 2, 2, 3, 3]  # two samples of each prompt
    corpus = metrics.of_corpus(ANSWERS, rows, samples=2, seed=0)
    right = [RIGHT[row - 1] for row in rows]
    streams = [[texts[0] for texts in right], [texts[1] if len(texts) > 1 else None for texts in right]]
    assert corpus["bleu"].mean == pytest.approx(BLEU().corpus_score(ANSWERS, streams).score)
    assert corpus["chrf"].mean == pytest.approx(CHRF().corpus_score(ANSWERS, streams).score)
    sentences = [metrics.of_answer(text, row)["bleu"] for text, row in zip(ANSWERS, rows, strict=True)]
    assert abs(corpus["bleu"].mean - np.mean(sentences)) > 0.1
    for estimate in corpus.values():
        assert estimate.low < estimate.mean < estimate.high
    assert "tok:13a" in metrics.signatures()["bleu"]
    chinese = TaskMetrics(("bleu",), [["河边的旅店便宜"]])
    assert chinese.of_corpus(["河边的旅店很便宜"], [1], samples=1, seed=0)["bleu"].mean > 50
    assert "tok:zh" in chinese.signatures()["bleu"]


def test_a_bootstrap_of_sums_is_that_of_the_mean_where_the_figure_is_one() -> None:
    values = np.arange(12.0).reshape(6, 2)
    sums = np.stack([values.sum(axis=1), np.full(6, 2.0)], axis=1)
    assert bootstrap_sums(sums, lambda s: s[0] / s[1]) == bootstrap_mean(values)
    with pytest.raises(ValueError, match="nothing"):
        bootstrap_sums(np.empty((0, 2)), lambda s: 0.0)


@pytest.mark.parametrize("value", [None, "", " ", [], ["inn", ""], 3, {"text": "inn"}])
def test_a_prompt_without_a_right_answer_is_named(tmp_path: Path, value: object) -> None:
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "where?", "reference": ["inn", "pub"]}, {"prompt": "who?", "reference": value}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(AlignmentError, match=r"prompts\.jsonl, row 2: .*`reference`.*reference_column"):
        load_references(str(file), "reference", None)
    assert load_references(str(file), "reference", 1) == [["inn", "pub"]]


def test_metrics_by_name_on_the_command_line(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"the inn {i}", "right": f"by the river {i}"} for i in range(4)]
    rows.insert(
        1, {"prompt": "guest " * 400, "right": "no"}
    )  # too long: rows and right answers stay together
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        "eval", f"run={tmp_path}/run", f"policies.base={tiny_model}", f"prompts={prompts}", "samples=2",
        "sampling.max_new_tokens=6", "metrics=[exact_match, f1, bleu, chrf, rouge_l]",
    ]  # fmt: skip
    assert align([*arguments, "--dry-run"]) == 1
    assert "row 1: `metrics` need a right answer in `reference`" in capsys.readouterr().err
    assert align([*arguments, "reference_column=right", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    answers = RunFolder(tmp_path / "run").rows("answers.jsonl")
    assert figures["base.f1"] == pytest.approx(np.mean([row["f1"] for row in answers]))
    assert figures["base.chrf"] > 0
    assert figures["base.chrf.low"] <= figures["base.chrf"] <= figures["base.chrf.high"]
    right = {row["prompt"]: [row["right"]] for row in rows}
    metrics = TaskMetrics(("f1", "bleu"), [right[row["prompt"][0]["content"]] for row in answers])
    for number, row in enumerate(answers, 1):
        expected = metrics.of_answer(row["answer"], number)
        assert {name: row[name] for name in expected} == expected
    report = (tmp_path / "run" / "report.html").read_text()
    assert "ROUGE-L" in report
    assert "tok:13a" in report


def test_an_unknown_metric_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert align(["eval", "run=x", "policies.base=x", "prompts=x", "metrics=[rouge-l]"]) == 2
    assert "did you mean 'rouge_l'" in capsys.readouterr().err
