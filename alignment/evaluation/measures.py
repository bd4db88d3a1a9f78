"""What is measured of single answers: a check of the user's own, task metrics, a reward model."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from alignment.console import progress_bar
from alignment.errors import AlignmentError, ConfigError
from alignment.evaluation.config import EvalConfig
from alignment.evaluation.metrics import TaskMetrics, load_references
from alignment.evaluation.refusals import judge_refusals, refuses
from alignment.evaluation.sampling import Answer, SuiteAnswer
from alignment.evaluation.toxicity import has_any, load_word_list
from alignment.prompts import Message
from alignment.rollouts import device
from alignment.scorers import load_scorer
from reward.specs import Spec

MEASURED_LATER = {"reward", "toxic", "toxicity"}
Check = Callable[[list[Message], str], dict[str, float]]


def load_check(dotted: str) -> Check:
    """The function that `package.module:function` names. Raises ConfigError if there is none."""
    module, _, name = dotted.partition(":")
    try:
        check = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"check: cannot import {dotted} ({error})") from error
    if not callable(check):
        raise ConfigError(f"check: {dotted} is not a function")
    return check  # type: ignore[no-any-return]


def load_task_metrics(config: EvalConfig) -> TaskMetrics | None:
    """Raises AlignmentError for a prompt without a right answer."""
    if not config.metrics:
        return None
    return TaskMetrics(config.metrics, load_references(config.prompts, config.reference_column, config.limit))


def measure(
    config: EvalConfig, answers: Sequence[Answer], check: Check | None, task: TaskMetrics | None
) -> None:
    """Puts into each answer's `metrics` what the config asks for."""
    for answer in answers:
        answer.metrics |= lengths(answer)
        if task:
            answer.metrics |= task.of_answer(answer.text, answer.prompt.row)
        if check:
            answer.metrics |= checked(check, config, answer)
    if config.reward:
        add_scores("reward", config.reward, config.batch_size, answers)
    add_toxicity(config, answers)


def measure_suites(config: EvalConfig, answers: Sequence[SuiteAnswer]) -> None:
    """The same for answers to suites: of these it is asked whether they refuse, and how toxic they are.

    Where the judge gave no verdict there is no `refused`.
    """
    if not answers:
        return
    for answer in answers:
        answer.metrics |= lengths(answer)
    texts = [(answer.prompt.messages, answer.text) for answer in answers]
    refused = [refuses(text) for _, text in texts] if not config.refusal_judge else judged(config, texts)
    for answer, verdict in zip(answers, refused, strict=True):
        if verdict is not None:
            answer.metrics["refused"] = float(verdict)
    add_toxicity(config, answers)


def judged(config: EvalConfig, texts: Sequence[tuple[list[Message], str]]) -> Sequence[bool | None]:
    """What the judge says; its ledger is in the store of the comparisons, or else in the run folder."""
    assert config.refusal_judge is not None  # noqa: S101  the caller asks only then
    ledger = config.comparisons.store if config.comparisons else str(Path(config.run) / "judge.db")
    with progress_bar("refusals", len(texts)) as advance:
        return judge_refusals(config.refusal_judge, ledger, texts, advance)


def lengths(answer: Answer) -> dict[str, float]:
    return {
        "length": float(len(answer.completion.token_ids)),
        "truncated": float(answer.completion.finish_reason == "length"),
    }


def add_toxicity(config: EvalConfig, answers: Sequence[Answer]) -> None:
    if config.toxic_words:
        listed = load_word_list(config.toxic_words)
        for answer in answers:
            answer.metrics["toxic"] = float(has_any(answer.text, listed))
    if config.toxicity:
        add_scores("toxicity", config.toxicity, config.batch_size, answers)


def checked(check: Check, config: EvalConfig, answer: Answer) -> dict[str, float]:
    figures = check(answer.prompt.messages, answer.text)
    taken = figures.keys() & (answer.row().keys() | MEASURED_LATER)
    if taken:
        raise AlignmentError(
            f"check {config.check} gives {', '.join(sorted(taken))}, which align eval measures"
        )
    return {name: float(value) for name, value in figures.items()}


def add_scores(name: str, spec: Spec, batch_size: int, answers: Sequence[Answer]) -> None:
    """What `spec` gives each answer, as the metric `name`."""
    scorer = load_scorer(spec, device())
    with progress_bar(name, len(answers)) as advance:
        for start in range(0, len(answers), batch_size):
            batch = answers[start : start + batch_size]
            scores = scorer.score(
                [[*a.prompt.messages, {"role": "assistant", "content": a.text}] for a in batch]
            )
            for answer, score in zip(batch, scores, strict=True):
                answer.metrics[name] = score
            advance(len(batch))
