"""`align eval`: policies answer the same held-out prompts; checks, metrics, a reward model and KL compare them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.console import note
from alignment.evaluation.comparisons import HOW_TO_LABEL, add_comparisons, pairs
from alignment.evaluation.config import EvalConfig
from alignment.evaluation.figures import summarize
from alignment.evaluation.measures import load_check, load_task_metrics, measure, measure_suites
from alignment.evaluation.report import write_evaluation_report
from alignment.evaluation.sampling import Answer, Sampled, sample_all
from alignment.evaluation.suites import load_suites
from alignment.evaluation.texts import load_texts
from alignment.evaluation.toxicity import load_word_list
from alignment.files import write_text
from alignment.models import base_of, resolve
from alignment.prompts import load_prompts
from alignment.rollouts import device, open_store
from alignment.runs import RunFolder
from alignment.scorers import load_scorer, resolve_reward
from reward.specs import is_learned


def evaluate(config: EvalConfig, *, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Sample, measure, write answers.jsonl, summary.json and report.html; returns the figures.

    With `resume`, what the run at the same place has sampled is not sampled again; what is measured is measured anew.

    Raises AlignmentError if a policy, the check or the reward model cannot be loaded or do not fit together.
    """
    check = load_check(config.check) if config.check else None
    prompts = load_prompts(config.prompts)[: config.limit]
    task = load_task_metrics(config)
    for path in config.policies.values():
        resolve(path)  # before minutes are spent on the first
    check_rewards(config)
    check_files(config)
    to = config.comparisons.store if config.comparisons else None
    store = open_store(to, prompts, config.prompts)
    run = RunFolder.open(Path(config.run), config, overwrite=overwrite, resume=resume)
    sampled = sample_all(config, prompts, run)
    answers = sampled.answers
    write_answers(run, sampled)  # kept also if a reward, a check or a judge fails on them
    measure(config, answers, check, task)
    measure_suites(config, sampled.suites)
    write_answers(run, sampled)
    figures = summarize(config, sampled, task)
    if store and config.comparisons:
        outcomes = add_comparisons(config, run, store, answers)
        figures |= {f"comparisons.{outcome}": count for outcome, count in outcomes.items()}
        note(
            f"eval: {outcomes['added'] + outcomes['duplicate']} comparisons are in {config.comparisons.store}: "
            f"{HOW_TO_LABEL}, then `align eval --labels {config.run}` reads the labels"
        )
    figures["prompts"] = len({a.prompt.row for a in answers})
    figures["too_long"] = len(prompts) - figures["prompts"]
    run.summarize(figures)
    write_evaluation_report(run.report, config, figures, [a.row() for a in answers])
    return figures


def check_rewards(config: EvalConfig) -> None:
    """Raises AlignmentError or RewardError for what scores answers and is not there; models are not loaded yet."""
    for spec in (config.reward, config.toxicity):
        if isinstance(spec, str) and not is_learned(spec):
            load_scorer(spec, device())
        elif spec:
            resolve_reward(spec)


def check_files(config: EvalConfig) -> None:
    """Raises AlignmentError for what would be found to be missing after minutes of sampling."""
    load_suites(config.suites)
    if config.text:
        load_texts(config.text)
    if config.toxic_words:
        load_word_list(config.toxic_words)


def write_answers(run: RunFolder, sampled: Sampled) -> None:
    """answers.jsonl and, where there are suites, suites.jsonl."""
    files: dict[str, Sequence[Answer]] = {"answers.jsonl": sampled.answers, "suites.jsonl": sampled.suites}
    for file, answers in files.items():
        if answers:
            rows = (json.dumps(answer.row(), ensure_ascii=False) + "\n" for answer in answers)
            write_text(run.path / file, "".join(rows))


def plan(config: EvalConfig) -> dict[str, Any]:
    """What `evaluate` would do, without loading a model."""
    prompts = len(load_prompts(config.prompts)[: config.limit])
    answers = prompts * config.samples * len(config.policies)
    if config.check:
        load_check(config.check)
    load_task_metrics(config)
    compared = {"comparisons": len(pairs(config)) * prompts * config.samples} if config.comparisons else {}
    check_rewards(config)
    check_files(config)
    suites = {f"prompts of suite {suite.name}": len(suite.prompts) for suite in load_suites(config.suites)}
    answers += sum(suites.values()) * config.samples * len(config.policies)
    text = {"texts": len(load_texts(config.text))} if config.text else {}
    return {
        **{f"policy {name}": resolve(path) for name, path in config.policies.items()},
        "prompts": prompts,
        "answers": answers,
        "tokens to sample, at most": answers * config.sampling.max_new_tokens,
        **suites,
        **text,
        **compared,
        "bases loaded": len({base_of(resolve(path)) for path in config.policies.values()}),
    }
