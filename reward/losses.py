"""Losses over pairs, as pure functions of the gap between two scores. b = pairs in the batch; every tensor is (b,)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bradley_terry(gap: Tensor, p_chosen: Tensor) -> Tensor:
    """Cross-entropy of each pair between the model's sigmoid(gap) and the label's p_chosen.

    gap: score of chosen less score of rejected.
    p_chosen: probability that `chosen` is the better side; 1 gives -logsigmoid(gap). A tie is 1/2.
    """
    return F.binary_cross_entropy_with_logits(gap, p_chosen.to(gap.dtype), reduction="none")


def davidson(gap: Tensor, p_chosen: Tensor, log_tie: Tensor) -> Tensor:
    """The same with ties as an outcome of their own (Davidson 1970): p_chosen of exactly 1/2 is one.

    P(win) : P(tie) : P(loss) = exp(gap / 2) : exp(log_tie) : exp(-gap / 2). Among pairs that are no ties this is
    Bradley-Terry; a tie says that the scores are close, and every other label that no tie was called.
    log_tie: scalar; how readily ties are called.
    """
    outcomes = torch.stack([gap / 2, log_tie.expand_as(gap), -gap / 2]).log_softmax(0)  # (3, b)
    p = p_chosen.to(gap.dtype)
    decided = -(p * outcomes[0] + (1 - p) * outcomes[2])
    return torch.where(p_chosen == 0.5, -outcomes[1], decided)


def less_margin(gap: Tensor, p_chosen: Tensor, margin: Tensor) -> Tensor:
    """The gap that is left once a sure label has got the margin it asks for (Touvron et al. 2023, eq. 2).

    The margin fades with the label's certainty, by 2 p - 1, so that swapping the sides and p for 1 - p changes nothing
    and a tie asks for no gap.
    """
    return gap - margin * (2 * p_chosen - 1)


def smoothed(p_chosen: Tensor, smoothing: float) -> Tensor:
    """p_chosen if a label says the opposite of what was meant with probability `smoothing` (0..1/2); ties stay ties."""
    return p_chosen * (1 - smoothing) + (1 - p_chosen) * smoothing


def centering(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Squared sum of the two scores of each pair: scores are free up to a constant, this pins it near 0.

    Eisenstein et al. 2023 (arXiv 2312.09244), eq. 2.
    """
    return (chosen + rejected) ** 2


def weighted_mean(loss: Tensor, weight: Tensor) -> Tensor:
    """Mean over b. The weights' mean over the data set is to be 1, so that a batch keeps its scale: () from (b,)."""
    return (loss * weight).mean()
