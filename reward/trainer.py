"""TRL's reward trainer, taught to read soft labels, weights and scaled margins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from reward.losses import bradley_terry, centering

LABELS = ("p_chosen", "weight", "margin")


@dataclass
class SoftPairCollator(DataCollatorForPreference):
    """TRL's collator, carrying the label columns as (b,) float tensors. Chosen sides come first."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        sides = [{k: row[k] for k in ("chosen_ids", "rejected_ids")} for row in examples]
        labels = {k: torch.tensor([row[k] for row in examples], dtype=torch.float) for k in LABELS}
        return super().torch_call(sides) | labels


class SoftRewardTrainer(RewardTrainer):
    """Trains on rows with chosen_ids, rejected_ids, p_chosen, weight and margin."""

    def __init__(self, *args: Any, margin_scale: float = 0.0, **kwargs: Any) -> None:
        self.margin_scale = margin_scale
        super().__init__(*args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        # columns that are not named here are dropped before the collator sees them
        self._signature_columns = ["chosen_ids", "rejected_ids", "length", *LABELS]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = {k: inputs.pop(k) for k in LABELS}
        _, outputs = super().compute_loss(model, inputs, return_outputs=True)
        chosen, rejected = outputs.logits.squeeze(-1).float().chunk(2)
        margin = labels["margin"] * self.margin_scale if self.margin_scale else None
        loss = bradley_terry(chosen, rejected, labels["p_chosen"], labels["weight"], margin)
        if self.args.center_rewards_coefficient:
            loss = loss + self.args.center_rewards_coefficient * centering(chosen, rejected)
        return (loss, outputs) if return_outputs else loss
