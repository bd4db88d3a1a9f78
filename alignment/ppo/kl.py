"""How far the policy is from the reference: estimators, and the controllers of the penalty's coefficient.

Estimators are John Schulman's k1, k2, k3 ("Approximating KL divergence", 2020); the adaptive controller is that
of Ziegler et al. 2019, "Fine-tuning language models from human preferences".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]
LOG_RATIO_LIMIT = 20.0


def log_ratio(logprobs: Tensor, other: Tensor) -> Tensor:
    """log(p / q) of each token in nats, clamped to +-20 so that its exponential stays finite. Shape kept."""
    return (logprobs - other).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: Estimator) -> Tensor:
    """KL(policy || reference) of each token in nats, estimated on tokens that the policy sampled. Shape kept.

    k1 is unbiased and can be negative; k2 = k1^2 / 2 has the right gradient as a loss; k3 is unbiased and >= 0.
    """
    ratio = log_ratio(logprobs, reference)
    if estimator == "k1":
        return ratio
    if estimator == "k2":
        return ratio**2 / 2
    return torch.exp(-ratio) - 1 + ratio


@dataclass
class FixedKL:
    """The coefficient stays what it is."""

    coef: float

    def update(self, kl: float, episodes: int) -> None:
        """Nothing to learn from the KL that was measured."""


@dataclass
class AdaptiveKL:
    """The coefficient follows the measured KL towards a target: Ziegler et al. 2019, section 2.2.

    coef <- coef * (1 + clip(kl / target - 1, -0.2, 0.2) * episodes / horizon), kl in nats an answer.
    """

    coef: float
    target: float
    horizon: float

    def update(self, kl: float, episodes: int) -> None:
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * episodes / self.horizon


KLController = FixedKL | AdaptiveKL
