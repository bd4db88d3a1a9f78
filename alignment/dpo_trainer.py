"""TRL's DPO trainer with the loss for soft, weighted labels, on pairs that come tokenized."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from reward.losses import bradley_terry, weighted_mean

LABELS = ("p_chosen", "weight")
COLUMNS = [
    "prompt_ids",
    "chosen_ids",
    "rejected_ids",
    "length",
    "ref_chosen_logps",
    "ref_rejected_logps",
    *LABELS,
]


@dataclass
class SoftPairCollator(DataCollatorForPreference):
    """TRL's collator, carrying the label columns as (b,) float tensors. Chosen sides come first."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        labels = {k: torch.tensor([row[k] for row in examples], dtype=torch.float) for k in LABELS}
        return super().torch_call(examples) | labels


class SoftDPOTrainer(DPOTrainer):
    """DPO (Rafailov et al. 2023) on p_chosen in place of a sure label.

    The implicit rewards r = beta (log pi - log pi_ref) of the two sides enter the Bradley-Terry
    cross-entropy against p_chosen. Reference log-probabilities are precomputed by TRL.
    """

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # tokenized before, so that what is left out is counted

    def _set_signature_columns_if_needed(self) -> None:
        # columns that are not named here are dropped before the collator sees them
        self._signature_columns = COLUMNS

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        return super().compute_ref_log_probs(model, {k: v for k, v in inputs.items() if k not in LABELS})

    def implicit_rewards(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """beta (log pi - log pi_ref) of the chosen and of the rejected sides of a batch, (b,) each."""
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=labels,
            fused_lm_head=True,
            use_cache=False,
        )
        chosen, rejected = outputs.log_probs.sum(1).chunk(2)
        return (
            self.beta * (chosen - inputs["ref_chosen_logps"]),
            self.beta * (rejected - inputs["ref_rejected_logps"]),
        )

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        chosen, rejected = self.implicit_rewards(model, inputs)
        loss = weighted_mean(bradley_terry(chosen - rejected, inputs["p_chosen"]), inputs["weight"])
        self._note(chosen.detach(), rejected.detach())
        return (loss, {"chosen": chosen, "rejected": rejected}) if return_outputs else loss

    def _note(self, chosen: Tensor, rejected: Tensor) -> None:
        """Metrics under TRL's names; its `log` takes their means."""
        rows = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "rewards/margins": chosen - rejected,
        }
        mode = "train" if self.model.training else "eval"
        for name, values in rows.items():
            self._metrics[mode][name].append(self.accelerator.gather(values).mean().item())

    @torch.no_grad()
    def held_out_rewards(self, batches: Iterable[dict[str, Any]]) -> tuple[list[float], list[float]]:
        """Implicit rewards of every pair of `batches` (such as `get_eval_dataloader()`), in order."""
        self.model.eval()
        chosen: list[float] = []
        rejected: list[float] = []
        for batch in batches:
            with self.compute_loss_context_manager():
                sides = self.implicit_rewards(self.model, self._prepare_inputs(batch))
            first, second = self.accelerator.gather_for_metrics(sides)
            chosen += first.float().tolist()
            rejected += second.float().tolist()
        return chosen, rejected
