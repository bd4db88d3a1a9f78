"""`align eval`: policies answer the same held-out prompts; checks, metrics, a reward model and KL compare them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignment.evaluation.config import EvalConfig
from alignment.evaluation.figures import summarize
from alignment.evaluation.measures import load_check, load_task_metrics, measure
from alignment.evaluation.report import write_evaluation_report
from alignment.evaluation.sampling import sample_all
from alignment.evaluation.texts import load_texts
from alignment.files import write_text
from alignment.models import base_of, resolve
from alignment.prompts import load_prompts
from alignment.runs import RunFolder
from alignment.scorers import resolve_reward


def evaluate(config: EvalConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Sample, measure, write answers.jsonl, summary.json and report.html; returns the figures.

    Raises AlignmentError if a policy, the check or the reward model cannot be loaded or do not fit together.
    """
    check = load_check(config.check) if config.check else None
    prompts = load_prompts(config.prompts)[: config.limit]
    task = load_task_metrics(config)
    for path in config.policies.values():
        resolve(path)  # before minutes are spent on the first
    if config.reward:
        resolve_reward(config.reward)
    if config.text:
        load_texts(config.text)
    run = RunFolder.create(Path(config.run), config, overwrite=overwrite)
    sampled = sample_all(config, prompts, run)
    answers = sampled.answers
    measure(config, answers, check, task)
    write_text(
        run.path / "answers.jsonl", "".join(json.dumps(a.row(), ensure_ascii=False) + "\n" for a in answers)
    )
    figures = summarize(config, sampled, task)
    figures["prompts"] = len({a.prompt.row for a in answers})
    figures["too_long"] = len(prompts) - figures["prompts"]
    run.summarize(figures)
    write_evaluation_report(run.report, config, figures, [a.row() for a in answers])
    return figures


def plan(config: EvalConfig) -> dict[str, Any]:
    """What `evaluate` would do, without loading a model."""
    prompts = len(load_prompts(config.prompts)[: config.limit])
    answers = prompts * config.samples * len(config.policies)
    if config.check:
        load_check(config.check)
    load_task_metrics(config)
    text = {"texts": len(load_texts(config.text))} if config.text else {}
    return {
        **{f"policy {name}": resolve(path) for name, path in config.policies.items()},
        "prompts": prompts,
        "answers": answers,
        "tokens to sample, at most": answers * config.sampling.max_new_tokens,
        **text,
        "bases loaded": len({base_of(resolve(path)) for path in config.policies.values()}),
    }
