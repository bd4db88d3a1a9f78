"""`align eval`: policies answer the same held-out prompts; a task's own check, a reward model and KL compare them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignment.console import progress_bar
from alignment.errors import AlignmentError, ConfigError
from alignment.evaluation.config import EvalConfig
from alignment.evaluation.report import write_evaluation_report
from alignment.evaluation.sampling import Answer, sample_all
from alignment.evaluation.statistics import (
    Array,
    Estimate,
    bootstrap_mean,
    bootstrap_ratio,
    ordered_alike,
    wins,
)
from alignment.files import write_text
from alignment.models import base_of, resolve
from alignment.prompts import Message, load_prompts
from alignment.rollouts import device
from alignment.runs import RunFolder
from alignment.scorers import load_scorer, resolve_reward
from reward.specs import Spec

Check = Callable[[list[Message], str], dict[str, float]]


def evaluate(config: EvalConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Sample, measure, write answers.jsonl, summary.json and report.html; returns the figures.

    Raises AlignmentError if a policy, the check or the reward model cannot be loaded or do not fit together.
    """
    check = load_check(config.check) if config.check else None
    prompts = load_prompts(config.prompts)[: config.limit]
    for path in config.policies.values():
        resolve(path)  # before minutes are spent on the first
    if config.reward:
        resolve_reward(config.reward)
    run = RunFolder.create(Path(config.run), config, overwrite=overwrite)
    answers = sample_all(config, prompts, run)
    for answer in answers:
        answer.metrics["length"] = float(len(answer.completion.token_ids))
        answer.metrics["truncated"] = float(answer.completion.finish_reason == "length")
        if check:
            answer.metrics |= checked(check, config, answer)
    if config.reward:
        add_rewards(config.reward, config.batch_size, answers)
    write_text(
        run.path / "answers.jsonl", "".join(json.dumps(a.row(), ensure_ascii=False) + "\n" for a in answers)
    )
    figures = summarize(config, answers)
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
    return {
        **{f"policy {name}": resolve(path) for name, path in config.policies.items()},
        "prompts": prompts,
        "answers": answers,
        "tokens to sample, at most": answers * config.sampling.max_new_tokens,
        "bases loaded": len({base_of(resolve(path)) for path in config.policies.values()}),
    }


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


def checked(check: Check, config: EvalConfig, answer: Answer) -> dict[str, float]:
    figures = check(answer.prompt.messages, answer.text)
    taken = figures.keys() & answer.metrics.keys()
    if taken:
        raise AlignmentError(
            f"check {config.check} gives {', '.join(sorted(taken))}, which align eval measures"
        )
    return {name: float(value) for name, value in figures.items()}


def add_rewards(reward: Spec, batch_size: int, answers: Sequence[Answer]) -> None:
    scorer = load_scorer(reward, device())
    with progress_bar("reward", len(answers)) as advance:
        for start in range(0, len(answers), batch_size):
            batch = answers[start : start + batch_size]
            scores = scorer.score(
                [[*a.prompt.messages, {"role": "assistant", "content": a.text}] for a in batch]
            )
            for answer, score in zip(batch, scores, strict=True):
                answer.metrics["reward"] = score
            advance(len(batch))


def summarize(config: EvalConfig, answers: Sequence[Answer]) -> dict[str, Any]:
    """Flat figures: NAME.METRIC with NAME.METRIC.low and .high; by the metric `quality` also win.ONE.OTHER and,
    where there is a reward model, reward.accuracy."""
    figures: dict[str, Any] = {}
    quality: dict[str, Array] = {}
    for name in config.policies:
        mine = [a for a in answers if a.policy == name]
        for metric in mine[0].metrics:
            values = np.array([a.metrics[metric] for a in mine]).reshape(-1, config.samples)
            put(figures, f"{name}.{metric}", bootstrap_mean(values, seed=config.seed))
            if metric == "quality":
                quality[name] = values
        figures[f"{name}.answers"] = len(mine)
    names = list(quality)
    for i, one in enumerate(names):
        for other in names[:i]:
            put(
                figures,
                f"win.{one}.{other}",
                bootstrap_mean(wins(quality[one], quality[other]), seed=config.seed),
            )
    if config.reward and quality:
        rewards = np.array([a.metrics["reward"] for a in answers if a.policy == config.reference])
        put_reward_accuracy(
            figures, rewards.reshape(-1, config.samples), quality[config.reference], config.seed
        )
    return figures


def put_reward_accuracy(figures: dict[str, Any], rewards: Array, quality: Array, seed: int) -> None:
    """How often the reward model orders two answers of the reference policy as the check does.

    rewards, quality: (prompts, samples). Pairs of one prompt that the check finds equal say nothing; a prompt
    counts by how many pairs it has that do.
    """
    agreed, pairs = ordered_alike(rewards, quality)
    if pairs.sum():
        put(figures, "reward.accuracy", bootstrap_ratio(agreed, pairs, seed=seed))
    figures["reward.pairs"] = int(pairs.sum())


def put(figures: dict[str, Any], key: str, estimate: Estimate) -> None:
    figures[key] = estimate.mean
    figures[f"{key}.low"], figures[f"{key}.high"] = estimate.low, estimate.high
