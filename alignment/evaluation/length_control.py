"""Win rates as they would be if both policies wrote answers of equal length.

AlpacaEval 2's regression (Dubois et al. 2024, "Length-Controlled AlpacaEval"), without its term for the difficulty of
each instruction, which takes many policies to estimate:

    P(win) = sigmoid(theta + phi * tanh(d / std(d)))        d: length of our answer less that of theirs

fitted by logistic regression, ties as halves; the length-controlled rate is sigmoid(theta), the win rate at d = 0.
Letters: p = prompts, k = comparisons of each prompt, n = comparisons, r = resamples.
"""

from __future__ import annotations

import numpy as np

from alignment.evaluation.statistics import Array, Estimate, resampled

RIDGE = 0.01  # a faint pull of theta and phi to 0: without it a policy that always wins has no finite theta


def length_controlled(
    outcomes: Array, differences: Array, *, seed: int = 0, resamples: int = 1000
) -> Estimate | None:
    """The length-controlled win rate with its 95% interval of a bootstrap over prompts.

    outcomes: (p, k), 1 for a win, 0.5 for a tie, 0 for a loss, NaN where it is not known.
    differences: (p, k), lengths of our answers less those of theirs, in any unit.
    None where all differences are the same: nothing then tells length from quality.
    """
    known = ~np.isnan(outcomes)
    spread = differences[known].std() if known.any() else 0.0
    if not spread:
        return None
    x, y = np.tanh(differences[known] / spread), outcomes[known]
    of_prompt = np.nonzero(known)[0]
    prompts = np.unique(of_prompt)
    place = np.searchsorted(prompts, of_prompt)
    rates = []
    for drawn in resampled(len(prompts), resamples, seed):
        times = np.stack([np.bincount(row, minlength=len(prompts)) for row in drawn])
        rates.append(sigmoid(fit(x, y, times[:, place].astype(np.float64))[:, 0]))
    low, high = np.quantile(np.concatenate(rates), [0.025, 0.975])
    rate = sigmoid(fit(x, y, np.ones((1, len(x))))[0, 0])
    return Estimate(float(rate), float(low), float(high))


def fit(x: Array, y: Array, weights: Array) -> Array:
    """theta and phi (r, 2) of r logistic regressions of y (n,) on x (n,), each with its weights (r, n).

    Newton's method, in steps of at most 1 a coordinate, so that the flat ends of the sigmoid throw it nowhere.
    """
    design = np.stack([np.ones_like(x), x])  # (2, n)
    found = np.zeros((len(weights), 2))
    for _ in range(200):
        p = sigmoid(found @ design)
        slope = (weights * (y - p)) @ design.T - RIDGE * found
        curvature = np.einsum("rn,in,jn->rij", weights * p * (1 - p), design, design) + RIDGE * np.eye(2)
        step = np.clip(np.linalg.solve(curvature, slope[:, :, None])[:, :, 0], -1, 1)
        found += step
        if np.abs(step).max() < 1e-9:
            break
    return found


def sigmoid(z: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-z)))
