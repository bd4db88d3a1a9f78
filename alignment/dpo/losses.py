"""The losses, as pure functions of what policy and reference say of two answers. Every tensor is (b,).

A loss is a score of an answer and a penalty on the gap between two scores. Soft labels need nothing more: with a
label that says "the first is better" with probability p, the loss is what is expected over both readings of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from alignment.dpo.config import LossConfig
from reward.losses import smoothed


@dataclass(frozen=True)
class Side:
    """One answer of each pair.

    logp: log-probability of the whole answer, in nats; reference: the same under the reference, None for losses
    that do without; tokens: how many it has.
    """

    logp: Tensor
    tokens: Tensor
    reference: Tensor | None = None

    @property
    def ratio(self) -> Tensor:
        """log(pi / pi_ref) of the answer."""
        if self.reference is None:
            raise ValueError("this loss needs the reference's log-probabilities")
        return self.logp - self.reference

    @property
    def mean(self) -> Tensor:
        """Log-probability a token."""
        return self.logp / self.tokens.clamp(min=1)


@dataclass(frozen=True)
class Kind:
    """score: of an answer, given beta; penalty: on the gap between two scores, given beta."""

    score: Callable[[Side, float], Tensor]
    penalty: Callable[[Tensor, float], Tensor]
    reference: bool = True


def implicit_reward(side: Side, beta: float) -> Tensor:
    """beta log(pi / pi_ref): the reward that the policy is the best answer to (Rafailov et al. 2023, eq. 5)."""
    return beta * side.ratio


def ratio_a_token(side: Side, beta: float) -> Tensor:
    """IPO's score, by its authors' advice averaged over tokens; beta stands in its penalty."""
    return side.ratio / side.tokens.clamp(min=1)


def mean_logp(side: Side, beta: float) -> Tensor:
    """Meng et al. 2024, eq. 3."""
    return beta * side.mean


def whole_logp(side: Side, beta: float) -> Tensor:
    """Xu et al. 2024: DPO against a uniform reference."""
    return beta * side.logp


def log_odds(side: Side, beta: float) -> Tensor:
    """log(P / (1 - P)) of the mean token probability P (Hong et al. 2024, eq. 4); beta weighs the penalty."""
    mean = side.mean.clamp(max=-1e-6)  # P = 1 has infinite odds
    return mean - torch.log(-torch.expm1(mean))


def logistic(gap: Tensor, beta: float) -> Tensor:
    """-log sigmoid(gap)."""
    return softplus(-gap)


def weighed_logistic(gap: Tensor, beta: float) -> Tensor:
    return beta * softplus(-gap)


def hinge(gap: Tensor, beta: float) -> Tensor:
    """Zhao et al. 2023 (SLiC), on implicit rewards."""
    return torch.relu(1 - gap)


def squared(gap: Tensor, beta: float) -> Tensor:
    """(gap - 1 / (2 beta))^2: Azar et al. 2023, eq. 17."""
    return (gap - 1 / (2 * beta)) ** 2


KINDS: dict[str, Kind] = {
    "sigmoid": Kind(implicit_reward, logistic),
    "robust": Kind(implicit_reward, logistic),
    "hinge": Kind(implicit_reward, hinge),
    "ipo": Kind(ratio_a_token, squared),
    "simpo": Kind(mean_logp, logistic, reference=False),
    "cpo": Kind(whole_logp, logistic, reference=False),
    "orpo": Kind(log_odds, weighed_logistic, reference=False),
    "kto": Kind(implicit_reward, logistic),  # of which only the score is used
}


def believed(p: Tensor, settings: LossConfig) -> Tensor:
    """The probability that a label is to be trained on with, given the share of labels that are wrong.

    Smoothed (Mitchell 2023, conservative DPO), or for robust DPO the opposite: stretched beyond 0..1, so that the
    loss expected over wrong labels is that of right ones (Chowdhury et al. 2024, eq. 11).
    """
    if settings.loss == "robust":
        return (p - settings.label_smoothing) / (1 - 2 * settings.label_smoothing)
    return smoothed(p, settings.label_smoothing)


def pair_loss(
    first: Side, second: Side, p_first: Tensor, margin: Tensor, settings: LossConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each pair, and the scores of both sides.

    p_first: probability that the first answer is the better one; margin: the label's strength, 0 if unknown.
    """
    kind, beta = KINDS[settings.loss], settings.beta
    one, other = kind.score(first, beta), kind.score(second, beta)
    p = believed(p_first, settings)
    asked = settings.gamma + settings.margin_scale * margin
    gap = one - other
    loss = p * kind.penalty(gap - asked, beta) + (1 - p) * kind.penalty(-gap - asked, beta)
    if settings.nll:
        loss = loss - settings.nll * (p * first.mean + (1 - p) * second.mean)
    return loss, one, other


def kto_loss(reward: Tensor, usual: Tensor, p_good: Tensor) -> Tensor:
    """Loss of single answers: Ethayarajh et al. 2024, eq. 8, with both weights 1.

    reward: beta log(pi / pi_ref) of the answer; usual: (), that of answers to other prompts, at least 0: the point
    from which gains and losses are counted; p_good: probability that the answer is a good one.
    """
    gain = torch.sigmoid(reward - usual)
    return p_good * (1 - gain) + (1 - p_good) * gain
