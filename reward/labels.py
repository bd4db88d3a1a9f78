"""How a label comes about from the gap between two scores: what is learned of the raters, beside the reward model.

Letters: b = pairs in the batch, r = raters.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reward.config import RewardConfig
from reward.losses import bradley_terry, davidson, less_margin, smoothed
from reward.pairs import with_column

if TYPE_CHECKING:
    from datasets import Dataset

SPREAD = 1.0  # standard deviation of the log of raters' reliability, before anything is known of them


@dataclass(frozen=True)
class Labels:
    """The labels of a batch, each (b,). rater: index among the raters; extra_tokens: answer lengths, chosen's less
    rejected's."""

    p_chosen: Tensor
    weight: Tensor
    margin: Tensor
    rater: Tensor
    extra_tokens: Tensor


LABELS = tuple(Labels.__dataclass_fields__)


class LabelModel(nn.Module):
    """The loss of a label, and what is learned of those who gave them.

    reliability (`config.reliability`): rater j sees the gap times a_j, so that P(j prefers chosen) = sigmoid(a_j gap).
    The labels of one whom the gap hardly explains then pull little, soft ones and sure ones alike. The mean of a over
    the labels is 1: the scale stays the model's. A rater's temperature is 1 / a_j.
    """

    share: Tensor  # (r,), of the labels

    def __init__(self, config: RewardConfig, raters: Counter[str]) -> None:
        """raters: labels by rater."""
        super().__init__()
        self.config = config
        self.names = sorted(raters)
        shares = torch.tensor([float(raters[name]) for name in self.names])
        self.pairs = float(shares.sum())
        self.register_buffer("share", shares / self.pairs)
        self.log_reliability = nn.Parameter(torch.zeros(len(raters)), requires_grad=config.reliability)
        self.log_tie = nn.Parameter(torch.zeros(()), requires_grad=config.ties == "davidson")

    @property
    def reliability(self) -> Tensor:
        """(r,); 1 is the average label's."""
        raw = self.log_reliability.exp()
        return raw / (self.share @ raw)

    def forward(self, gap: Tensor, labels: Labels) -> Tensor:
        """The loss of each pair, (b,)."""
        p = smoothed(labels.p_chosen, self.config.smoothing)
        gap = less_margin(gap, p, labels.margin * self.config.margin_scale)
        gap = gap * self.reliability[labels.rater]
        loss = davidson(gap, p, self.log_tie) if self.config.ties == "davidson" else bradley_terry(gap, p)
        return loss + self.prior()

    def prior(self) -> Tensor:
        """Each rater's log reliability is drawn from N(0, SPREAD) once: the share of that in the loss of one pair."""
        return (self.log_reliability**2).sum() / (2 * SPREAD**2 * self.pairs)

    def figures(self) -> dict[str, dict[str, float]]:
        """What was learned, for the card."""
        found: dict[str, dict[str, float]] = {}
        if self.config.reliability:
            found["reliability"] = dict(zip(self.names, self.reliability.tolist(), strict=True))
        if self.config.ties == "davidson":
            found["ties"] = {"log_tie": self.log_tie.item()}
        return found

    @property
    def learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())


def rater_of(annotator: str | None, source: str) -> str:
    """Whose reliability a label bears on: its annotator's; of anonymous ones, all those of their source together."""
    return annotator or source


def with_raters(pairs: Dataset) -> tuple[Dataset, Counter[str]]:
    """`pairs` with an index `rater` into the sorted names, and the labels by rater."""
    names = [rater_of(*row) for row in zip(pairs["annotator"], pairs["source"], strict=True)]
    raters = Counter(names)
    place = {name: index for index, name in enumerate(sorted(raters))}
    return with_column(pairs, "rater", [place[name] for name in names]), raters
