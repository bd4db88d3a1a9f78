"""`align reward eval` and `align reward calibrate`: a trained reward model on pairs, and on the known benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.console import progress_bar
from alignment.errors import AlignmentError
from alignment.preferences import load_preferences
from alignment.prompts import read_rows
from alignment.scorers import reward_folder

if TYPE_CHECKING:
    from datasets import Dataset

    from reward.calibration import Bin
    from reward.learned import LearnedScorer


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs and what a reward model gives their sides. chosen, rejected: (n, members) raw scores."""

    pairs: Dataset
    chosen: np.ndarray
    rejected: np.ndarray
    left_out: Counter[str]

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray, list[float]]:
        """Mean scores of both sides, and p_chosen."""
        return self.chosen.mean(1), self.rejected.mean(1), list(self.pairs["p_chosen"])


def evaluate_reward(model: str, data: str, out: Path | None = None) -> dict[str, Any]:
    """A reward model on pairs, or on a file of RewardBench, RewardBench 2 or RM-Bench rows.

    On pairs: accuracy with its interval, ECE, Brier score, liking for length, overall and by source; of a snapshot the
    held-out pairs are taken, of a single file all. Pairs that cannot be scored are counted.
    out: a folder for figures.json and report.html.
    """
    from alignment.reward_report import write_reward_report
    from reward.learned import LearnedScorer

    questions = read_benchmark(Path(data))
    if not questions and not Path(data).exists():
        load_preferences(data)  # says so before a model is loaded
    scorer = LearnedScorer(reward_folder(model))
    bins: list[Bin] = []
    if questions:
        figures = on_benchmark(scorer, *questions, data)
    else:
        figures, bins = on_pairs(scorer, data)
    if out:
        write_reward_report(out, model, data, figures, bins)
    return figures


def on_pairs(scorer: LearnedScorer, data: str) -> tuple[dict[str, Any], list[Bin]]:
    """The figures, and the bins of the reliability diagram."""
    from reward.calibration import fit_temperature, reliability_bins
    from reward.evaluate import figures_by, pair_figures
    from reward.length import length_figures

    scored = score_pairs(scorer, data)
    groups = list(scored.pairs["group"])
    figures = {
        **pair_figures(*scored.labels, groups),
        **length_figures(*scored.labels, scored.pairs["extra_tokens"]),
        "temperature": fit_temperature(*scored.labels),
        "by_source": figures_by(list(scored.pairs["source"]), *scored.labels, groups),
        "left_out": dict(scored.left_out),
    }
    return figures, reliability_bins(*scored.labels)


def score_pairs(scorer: LearnedScorer, data: str) -> ScoredPairs:
    """Raises AlignmentError for a snapshot without held-out pairs."""
    from datasets import concatenate_datasets

    from reward.pairs import tokenize_pairs

    preferences = load_preferences(data)
    pairs = preferences.test
    if preferences.snapshot is None:
        pairs = concatenate_datasets([preferences.train, preferences.test])
    if not len(pairs):
        raise AlignmentError(f"snapshot {data} has no held-out pairs: take it with a larger test share")
    left_out = preferences.left_out()
    pairs = tokenize_pairs(
        pairs,
        scorer.tokenizer,
        scorer.context,
        split="test",
        reject=lambda row: left_out.update([row["reason"]]),
    )
    with progress_bar("scoring", 2 * len(pairs)) as advance:
        opinions = scorer.token_opinions([*pairs["chosen_ids"], *pairs["rejected_ids"]], advance)
    chosen, rejected = np.split(opinions, 2)
    return ScoredPairs(pairs, chosen, rejected, left_out)


def read_benchmark(file: Path) -> tuple[str, list[dict[str, Any]]] | None:
    """The benchmark that a file's rows are of, and the rows; None if it is of none."""
    from reward.benchmarks import benchmark_of

    rows = read_rows(file) if file.is_file() else []
    names = {benchmark_of(row) for row in rows}
    if len(names) > 1:
        found = ", ".join(sorted(name or "pairs" for name in names))
        raise AlignmentError(f"{file} mixes rows of {found}: give one at a time")
    name = names.pop() if names else None
    return (name, rows) if name else None


def on_benchmark(
    scorer: LearnedScorer, benchmark: str, rows: Sequence[dict[str, Any]], file: str
) -> dict[str, Any]:
    from reward.benchmarks import Scored, question, report

    questions = [question(row, f"{file}, row {number}") for number, row in enumerate(rows, 1)]
    conversations = [conversation for one in questions for conversation in one.conversations]
    with progress_bar("scoring", len(conversations)) as advance:
        scores = iter(scorer.score(conversations, advance))
    scored = [
        Scored(one, [next(scores) for _ in one.right], [next(scores) for _ in one.wrong]) for one in questions
    ]
    return {"benchmark": benchmark, **report(benchmark, scored), "questions": len(questions)}


def calibrate_reward(model: str, data: str) -> dict[str, Any]:
    """Fit temperature, mean and std of a reward model folder's scores on pairs, and keep them in its card.

    A reward model that was trained elsewhere gets a card by this, which PPO normalises its scores by.
    Returns what was fitted, with the calibration error before and after.
    """
    from reward.calibration import fit_temperature
    from reward.card import RewardCard
    from reward.evaluate import calibration_error
    from reward.learned import LearnedScorer

    folder = Path(reward_folder(model))
    if not folder.is_dir():
        raise AlignmentError(f"{model} is no local folder to keep a card in: save the model in one first")
    scorer = LearnedScorer(folder)
    scored = score_pairs(scorer, data)
    chosen, rejected, p = scored.labels
    both = np.concatenate([chosen, rejected])
    if not both.std() > 0:
        raise AlignmentError(
            f"{model} gives every answer of {data} the same score: there is nothing to calibrate"
        )
    temperature = fit_temperature(chosen, rejected, p)
    fitted = {
        "temperature": temperature,
        "score_mean": float(both.mean()),
        "score_std": float(both.std()),
        "scored": len(both),
        "measured_on": "calibration",
    }
    has_card = (folder / "reward.json").exists()
    card = (
        RewardCard.read(folder).model_dump() if has_card else {"train_pairs": 0, "max_length": scorer.context}
    )
    RewardCard.model_validate(card | fitted).write(folder)
    return {
        **fitted,
        "ece_before": calibration_error(chosen, rejected, p),
        "ece_after": calibration_error(chosen / temperature, rejected / temperature, p),
        "left_out": dict(scored.left_out),
    }
