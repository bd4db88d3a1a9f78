"""Log-probabilities of chosen tokens from hidden states, without ever holding all logits of a batch.

Letters: n = response tokens of a microbatch, d = hidden size, v = vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from alignment.ppo.packing import line_length

# the frozen head holds so many logits at once, in the head's type: few on a CPU, many are what a GPU is quick at
CHUNK = {"cpu": 1 << 22, "cuda": 1 << 27}
ROWS = 128  # or those of so many tokens
WIDE = {"cpu": 1 << 17, "cuda": 1 << 27}  # and so many of these in float32: on a CPU what its cache holds


def chosen_logprobs(
    head: nn.Module,
    states: Tensor,
    targets: Tensor,
    temperature: float,
    softcap: float | None = None,
    *,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `targets` (n,) under head(states) / temperature, and entropies: two (n,), fp32, nats.

    states: (n, d). The entropies carry a gradient only if asked to. A frozen linear head is run in chunks that
    keep one (n, d) matrix for the backward, two with the entropies'; a head that is being trained, or is more than
    a matrix, keeps its (n, v) logits.
    """
    weight = getattr(head, "weight", None)
    plain = isinstance(head, nn.Linear) and head.bias is None and not softcap
    if type(weight) is nn.Parameter and plain and not (weight.requires_grad and torch.is_grad_enabled()):
        n = len(states)
        filling = line_length(n, weight.dtype, states.device) - n
        line, wanted = pad(states, (0, 0, 0, filling)), pad(targets, (0, filling))
        logprobs, entropy = _FrozenHead.apply(line, weight, wanted, temperature, entropy_gradient)
        return logprobs[:n], entropy[:n]
    logits = head(states).float()
    if softcap:
        logits = torch.tanh(logits / softcap) * softcap
    everything = torch.log_softmax(logits / temperature, dim=-1)  # (n, v)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = -(everything.exp() * everything).sum(-1)
    return everything.gather(-1, targets[:, None]).squeeze(-1), entropy


class _FrozenHead(torch.autograd.Function):
    """d logp(y) / d states = (W[y] - sum_v p(v) W[v]) / temperature: known in the forward, so no logits are kept.

    d entropy / d states = -sum_v p(v) (logp(v) + entropy) W[v] / temperature.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, temperature: float, entropy_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        rows = max(ROWS, CHUNK.get(weight.device.type, CHUNK["cuda"]) // len(weight))
        logprobs, entropy = (torch.empty(len(states), device=states.device) for _ in range(2))
        wanted = ctx.needs_input_grad[0]
        jacobian = torch.empty_like(states) if wanted else None
        of_entropy = torch.empty_like(states) if wanted and entropy_gradient else None
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            logits = states[part].to(weight.dtype) @ weight.T
            surprises = None if of_entropy is None else torch.empty_like(logits)
            logprobs[part], entropy[part] = soften_(logits, targets[part], temperature, surprises)
            if jacobian is not None:
                jacobian[part] = (weight[targets[part]] - logits @ weight).div_(temperature)
            if of_entropy is not None and surprises is not None:
                of_entropy[part] = (surprises @ weight).div_(-temperature)
        if jacobian is not None:
            ctx.save_for_backward(*(x for x in (jacobian, of_entropy) if x is not None))
        if of_entropy is None:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        saved = ctx.saved_tensors  # one for the log-probabilities, perhaps one for the entropies
        parts = (g[:, None].to(j.dtype) * j for g, j in zip(gradients, saved, strict=False))
        return sum(parts, torch.zeros_like(saved[0])), None, None, None, None


def soften_(
    logits: Tensor, targets: Tensor, temperature: float, surprises: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Turn `logits` (n, v) into the probabilities under logits / temperature, in place.

    Returns log-probabilities of `targets` (n,) and entropies: two (n,), fp32, nats. Into `surprises` (n, v), if given,
    goes p(v) (logp(v) + entropy).
    """
    n, v = logits.shape
    few = max(1, WIDE.get(logits.device.type, WIDE["cuda"]) // v)
    logprobs, entropy = (torch.empty(n, device=logits.device) for _ in range(2))
    for start in range(0, n, few):
        part = slice(start, start + few)
        wide = logits[part].float().div_(temperature)
        everything = torch.log_softmax(wide, -1)
        logprobs[part] = everything.gather(-1, targets[part, None]).squeeze(-1)
        probabilities = torch.exp(everything, out=wide)
        if wide.dtype != logits.dtype:
            logits[part] = probabilities
        surprise = everything.mul_(probabilities)
        entropy[part] = -surprise.sum(-1)
        if surprises is not None:
            surprises[part] = surprise.addcmul_(probabilities, entropy[part, None])
    return logprobs, entropy
