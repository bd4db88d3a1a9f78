"""The language model's head on the tokens of the answers only, in place of TRL's, where that may be.

TRL scores every position on a CPU, prompts too, for figures that are not used here; on a GPU it has a kernel of its
own, which stays.
"""

from __future__ import annotations

from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from trl.trainer.utils import FusedCausalLMOutput

from alignment.dpo.line import IGNORED
from alignment.ppo.logprobs import CHUNK, ROWS, chosen_logprobs

# of models whose logits are more than head(states); TRL knows what is to be done with each
SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")


def score_answers_only(model: Any) -> None:
    """Let `model(..., fused_lm_head=True)` on a CPU run the head on labelled positions only. In place.

    model: a causal language model to which TRL has added its fused head. Models that scale their logits, and those on
    a GPU, keep TRL's.
    """
    config = model.config.get_text_config()
    if model.device.type != "cpu" or any(getattr(config, name, None) is not None for name in SCALES):
        return
    fused = model.forward

    @wraps(fused)  # `generate` checks its arguments against the signature
    def forward(
        self: Any,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head:
            more = {"labels": labels, "shift_labels": shift_labels}
            return fused(*args, **kwargs, **{name: x for name, x in more.items() if x is not None})
        states = self.base_model(*args, **kwargs).last_hidden_state
        if shift_labels is None:
            assert labels is not None  # noqa: S101 (one of the two is always given)
            states, shift_labels = states[:, :-1], labels[:, 1:]
        wanted = shift_labels != IGNORED
        softcap = getattr(config, "final_logit_softcapping", None)
        found = label_logprobs(self.get_output_embeddings(), states[wanted], shift_labels[wanted], softcap)
        return FusedCausalLMOutput(log_probs=found.new_zeros(wanted.shape).masked_scatter(wanted, found))

    model.forward = MethodType(forward, model)


def label_logprobs(head: nn.Module, states: Tensor, targets: Tensor, softcap: float | None) -> Tensor:
    """Log-probabilities (m,) of `targets` (m,) after `states` (m, d), fp32. Logits are never held all at once."""
    weight: Tensor = head.weight  # type: ignore[assignment]
    if not (weight.requires_grad and torch.is_grad_enabled()):
        return chosen_logprobs(head, states, targets, 1.0, softcap)[0]
    rows = max(ROWS, CHUNK["cpu"] // len(weight))

    def of_some(some: Tensor, wanted: Tensor) -> Tensor:
        logits = head(some).float()
        if softcap:
            logits = torch.tanh(logits / softcap) * softcap
        return logits.log_softmax(-1).gather(-1, wanted[:, None]).squeeze(-1)

    parts = zip(states.split(rows), targets.split(rows), strict=True)
    return torch.cat([checkpoint(of_some, *part, use_reentrant=False) for part in parts])  # type: ignore[misc]
