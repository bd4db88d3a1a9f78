"""TRL's reward trainer, taught to read labels as they are, and to run a pair's prompt once for both sides."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from reward.labels import LABELS, LabelModel, Labels
from reward.losses import centering, weighted_mean
from reward.shared_prompt import as_rows, pair_scores, score_head

LABEL_RATE = 0.05  # learning rate of what is learned of the raters: a few numbers, with an epoch to settle


@dataclass
class PairCollator(DataCollatorForPreference):
    """Pairs as rows that share their prompt, or as TRL's two rows a pair, chosen sides first; labels are (b,)."""

    shared: bool = True

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        chosen, rejected = ([row[f"{side}_ids"] for row in examples] for side in ("chosen", "rejected"))
        if self.shared:
            sides: dict[str, Tensor] = as_rows(chosen, rejected, self.pad_token_id)
        else:
            pairs = zip(chosen, rejected, strict=True)
            sides = super().torch_call([{"chosen_ids": one, "rejected_ids": other} for one, other in pairs])
        labels = {name: torch.tensor([row[name] for row in examples]) for name in LABELS}
        return sides | {name: x if name == "rater" else x.float() for name, x in labels.items()}


class PairTrainer(RewardTrainer):
    """Trains on rows with chosen_ids, rejected_ids and the labels of `reward.labels.Labels`."""

    def __init__(self, *args: Any, label_model: LabelModel, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_model = label_model.to(self.args.device)
        learned = [p for p in label_model.parameters() if p.requires_grad]
        self.label_optimizer = torch.optim.Adam(learned, lr=LABEL_RATE) if learned else None

    def _set_signature_columns_if_needed(self) -> None:
        # columns that are not named here are dropped before the collator sees them
        self._signature_columns = ["chosen_ids", "rejected_ids", "length", *LABELS]

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.label_optimizer and self.accelerator.sync_gradients:
            for group in self.label_optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
            self.label_optimizer.step()
            self.label_optimizer.zero_grad()
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = Labels(**{name: inputs.pop(name) for name in LABELS})
        _, outputs = super().compute_loss(self._scores(model), inputs, return_outputs=True)
        chosen, rejected = outputs.logits.squeeze(-1).float().chunk(2)
        loss = weighted_mean(self.label_model(chosen - rejected, labels), labels.weight)
        if self.args.center_rewards_coefficient:
            loss = loss + self.args.center_rewards_coefficient * centering(chosen, rejected).mean()
        return (loss, outputs) if return_outputs else loss

    def _scores(self, model: Any) -> Any:
        """`model` as TRL calls it: inputs in, scores of chosen and rejected sides out."""

        def scores(use_cache: bool = False, **batch: Tensor) -> Any:
            if "part_lengths" not in batch:
                return model(use_cache=use_cache, **batch)
            base = self.accelerator.unwrap_model(model)
            return SimpleNamespace(logits=pair_scores(model, score_head(base), base.dtype, batch))

        return scores
