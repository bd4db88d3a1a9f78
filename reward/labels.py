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


@dataclass(frozen=True)
class Raters:
    """Who gave the labels, in the order that `rater` counts in."""

    names: tuple[str, ...]
    labels: tuple[int, ...]  # how many each gave
    judges: tuple[bool, ...]
    spread_tokens: float = 1.0  # root mean square of extra_tokens


class LabelModel(nn.Module):
    """The loss of a label, and what is learned of those who gave them.

    Rater j prefers chosen with probability sigmoid(a_j gap + b_j longer); longer is extra_tokens in its spreads.
    reliability a (`config.reliability`): the labels of one whom the gap hardly explains pull little, soft ones and sure
    ones alike. The mean of a over the labels is 1: the scale stays the model's. A rater's temperature is 1 / a_j.
    liking b (`config.length_covariate`): what a rater's liking for length explains need not be in the scores.
    """

    share: Tensor  # (r,), of the labels
    may_like: Tensor  # (r,), 1 where a liking for length is learned

    def __init__(self, config: RewardConfig, raters: Raters) -> None:
        super().__init__()
        self.config, self.raters = config, raters
        counts = torch.tensor([float(count) for count in raters.labels])
        self.pairs = float(counts.sum())
        self.register_buffer("share", counts / self.pairs)
        everyone = config.length_covariate == "all"
        liking = [everyone or (judge and config.length_covariate == "judges") for judge in raters.judges]
        self.register_buffer("may_like", torch.tensor(liking, dtype=torch.float))
        self.log_reliability = nn.Parameter(torch.zeros(len(counts)), requires_grad=config.reliability)
        self.liking = nn.Parameter(torch.zeros(len(counts)), requires_grad=any(liking))
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
        liking = (self.liking * self.may_like)[labels.rater]
        seen = gap * self.reliability[labels.rater] + liking * labels.extra_tokens / self.raters.spread_tokens
        loss = davidson(seen, p, self.log_tie) if self.config.ties == "davidson" else bradley_terry(seen, p)
        return loss + self.prior()

    def prior(self) -> Tensor:
        """Each rater's log a and b are drawn from N(0, SPREAD) once: the share of that in the loss of one pair."""
        squares = (self.log_reliability**2).sum() + (self.liking**2).sum()
        return squares / (2 * SPREAD**2 * self.pairs)

    def figures(self) -> dict[str, dict[str, float]]:
        """What was learned, for the card."""
        found: dict[str, dict[str, float]] = {}
        if self.config.reliability:
            found["reliability"] = self._by_name(self.reliability)
        if self.liking.requires_grad:
            found["liking_for_length"] = self._by_name(self.liking * self.may_like)
        if self.config.ties == "davidson":
            found["ties"] = {"log_tie": self.log_tie.item()}
        return found

    def _by_name(self, values: Tensor) -> dict[str, float]:
        return dict(zip(self.raters.names, values.tolist(), strict=True))


def with_raters(pairs: Dataset) -> tuple[Dataset, Raters]:
    """`pairs` with an index `rater`, and those whom it counts; anonymous labels of a source are one rater's."""
    sources = [str(source) for source in pairs["source"]]
    names = [annotator or source for annotator, source in zip(pairs["annotator"], sources, strict=True)]
    source_of = dict(zip(names, sources, strict=True))
    counts = Counter(names)
    known = sorted(counts)
    place = {name: index for index, name in enumerate(known)}
    extra = torch.tensor(pairs["extra_tokens"][:]).float()
    raters = Raters(
        names=tuple(known),
        labels=tuple(counts[name] for name in known),
        judges=tuple(source_of[name] == "judge" for name in known),
        spread_tokens=float(extra.square().mean().sqrt()) or 1.0,
    )
    return with_column(pairs, "rater", [place[name] for name in names]), raters
