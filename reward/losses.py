"""Losses over pairs of scores, as pure functions. b = pairs in the batch; every tensor is (b,)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry(
    chosen: Tensor,
    rejected: Tensor,
    p_chosen: Tensor,
    weight: Tensor | None = None,
    margin: Tensor | None = None,
) -> Tensor:
    """Cross-entropy between the model's sigmoid(chosen - rejected) and the label's p_chosen, mean over b.

    chosen, rejected: scores of the two sides.
    p_chosen: probability that `chosen` is the better side; 1 gives -logsigmoid(chosen - rejected).
    weight: factor of each pair; its mean over the data set is to be 1, so that a batch keeps its scale.
    margin: gap asked of a sure label (Touvron et al. 2023, eq. 2). It fades with the label's certainty,
    by 2 p - 1, so that swapping the sides and p for 1 - p changes nothing and a tie asks for no gap.
    """
    gap = chosen - rejected
    if margin is not None:
        gap = gap - margin * (2 * p_chosen - 1)
    loss = F.binary_cross_entropy_with_logits(gap, p_chosen.to(gap.dtype), reduction="none")
    return (loss if weight is None else loss * weight).mean()


def centering(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean squared sum of the two scores: scores are free up to a constant, this pins it near 0.

    Eisenstein et al. 2023 (arXiv 2312.09244), eq. 2.
    """
    return ((chosen + rejected) ** 2).mean()
