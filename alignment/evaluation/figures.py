"""From measured answers to summary.json: flat figures, each mean with its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

from alignment.evaluation.config import EvalConfig
from alignment.evaluation.metrics import TaskMetrics
from alignment.evaluation.sampling import Answer, Sampled, SuiteAnswer
from alignment.evaluation.statistics import (
    Array,
    Estimate,
    bootstrap_mean,
    bootstrap_ratio,
    ordered_alike,
    wins,
)
from alignment.evaluation.suites import refusal_rates
from alignment.evaluation.wins import Contest, by_score, figures_of

Figures = dict[str, Any]


def summarize(config: EvalConfig, sampled: Sampled, task: TaskMetrics | None = None) -> Figures:
    """Flat figures: NAME.METRIC with NAME.METRIC.low and .high; by the metric `quality` also win.ONE.OTHER, and
    where there is a reward model win_by.reward.ONE.OTHER and, with quality, reward.accuracy."""
    figures: Figures = {}
    answers = sampled.answers
    quality: dict[str, Array] = {}
    for name in config.policies:
        mine = [a for a in answers if a.policy == name]
        corpus = task.of_corpus(*texts_and_rows(mine), config.samples, config.seed) if task else {}
        for metric in mine[0].metrics:
            values = np.array([a.metrics[metric] for a in mine]).reshape(-1, config.samples)
            put(
                figures,
                f"{name}.{metric}",
                corpus[metric] if metric in corpus else bootstrap_mean(values, seed=config.seed),
            )
            if metric == "quality":
                quality[name] = values
        if name in sampled.texts:
            put(figures, f"{name}.perplexity", sampled.texts[name].perplexity(config.seed))
            put(figures, f"{name}.bits_per_byte", sampled.texts[name].bits_per_byte(config.seed))
        figures[f"{name}.answers"] = len(mine)
    names = list(quality)
    for i, one in enumerate(names):
        for other in names[:i]:
            put(
                figures,
                f"win.{one}.{other}",
                bootstrap_mean(wins(quality[one], quality[other]), seed=config.seed),
            )
    if config.reward:
        put_contests(figures, by_reward(config, answers), config.seed)
    if config.reward and quality:
        rewards = np.array([a.metrics["reward"] for a in answers if a.policy == config.reference])
        put_reward_accuracy(
            figures, rewards.reshape(-1, config.samples), quality[config.reference], config.seed
        )
    figures |= of_suites(config, sampled.suites)
    if task:
        figures |= {f"signature.{name}": signature for name, signature in task.signatures().items()}
    return figures


def of_suites(config: EvalConfig, answers: Sequence[SuiteAnswer]) -> Figures:
    """suite.SUITE.POLICY.over_refusal and .under_refusal, and what else was measured of the answers."""
    figures: Figures = {}
    for suite, policy in product(config.suites, config.policies):
        mine = [a for a in answers if (a.suite, a.policy) == (suite, policy)]
        key = f"suite.{suite}.{policy}"
        refused = [a.metrics.get("refused", np.nan) for a in mine]
        rates = refusal_rates([a.expected for a in mine], refused, config.samples, config.seed)
        for name, estimate in rates.items():
            put(figures, f"{key}.{name}", estimate)
        for metric in mine[0].metrics.keys() & {"toxic", "toxicity"}:
            values = np.array([a.metrics[metric] for a in mine]).reshape(-1, config.samples)
            put(figures, f"{key}.{metric}", bootstrap_mean(values, seed=config.seed))
        if unread := int(np.isnan(refused).sum()):
            figures[f"{key}.unread"] = unread  # answers of which the judge gave no verdict
        figures[f"suite.{suite}.prompts"] = len(mine) // config.samples
    return figures


def texts_and_rows(answers: Sequence[Answer]) -> tuple[list[str], list[int]]:
    return [a.text for a in answers], [a.prompt.row for a in answers]


def put_contests(figures: Figures, contests: Iterable[Contest], seed: int) -> None:
    """win_by.RATER.ONE.OTHER and what belongs to it; `contests` lists RATER, ONE and OTHER."""
    listed = figures.setdefault("contests", [])
    for contest in contests:
        figures |= figures_of(contest, seed)
        listed.append([contest.rater, contest.one, contest.other])


def by_reward(config: EvalConfig, answers: Sequence[Answer]) -> Iterator[Contest]:
    """Every two policies by the reward model."""

    def of(name: str, value: Callable[[Answer], float]) -> Array:
        values = [value(a) for a in answers if a.policy == name]
        return np.array(values, dtype=np.float64).reshape(-1, config.samples)

    rewards = {name: of(name, lambda a: a.metrics["reward"]) for name in config.policies}
    lengths = {name: of(name, lambda a: len(a.text)) for name in config.policies}
    for one, other in combinations(reversed(list(config.policies)), 2):
        yield by_score("reward", one, other, (rewards[one], rewards[other]), (lengths[one], lengths[other]))


def put_reward_accuracy(figures: Figures, rewards: Array, quality: Array, seed: int) -> None:
    """How often the reward model orders two answers of the reference policy as the check does.

    rewards, quality: (prompts, samples). Pairs of one prompt that the check finds equal say nothing; a prompt
    counts by how many pairs it has that do.
    """
    agreed, pairs = ordered_alike(rewards, quality)
    if pairs.sum():
        put(figures, "reward.accuracy", bootstrap_ratio(agreed, pairs, seed=seed))
    figures["reward.pairs"] = int(pairs.sum())


def put(figures: Figures, key: str, estimate: Estimate) -> None:
    figures[key] = estimate.mean
    figures[f"{key}.low"], figures[f"{key}.high"] = estimate.low, estimate.high
