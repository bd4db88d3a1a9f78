"""TRL's trainer with an evaluation loss that is a mean over tokens, whatever the batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer

from alignment.sft_data import IGNORED


class AnswerTrainer(SFTTrainer):
    """Trains as SFTTrainer does. The Trainer averages evaluation losses over batches, in which a token of a short batch
    counts for more; a held-out loss and a perplexity are means over all tokens."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not self.model.training:
            loss = found[0] if return_outputs else found
            tokens = (inputs["labels"][:, 1:] != IGNORED).sum()
            self._evaluated += (
                torch.stack([loss.detach() * tokens, tokens]).double().to(self._evaluated.device)
            )
        return found

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        self._evaluated = torch.zeros(2, dtype=torch.double, device=self.args.device)  # nats, tokens
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        nats, tokens = self.accelerator.gather(self._evaluated).view(-1, 2).sum(0).tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = nats / tokens
        return output
