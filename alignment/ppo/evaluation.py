"""What policy, reference and critic say of answers, in microbatches and shared among the processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.ppo.actor_critic import ActorCritic
from alignment.ppo.experience import microbatches
from alignment.ppo.processes import fill_in, share
from alignment.ppo.sequences import Sequences


@dataclass(frozen=True)
class Evaluation:
    """Of each response token: its log-probability and the entropy under the policy, its log-probability under the
    reference, the critic's value before it. All (b, r), 0 where a row has ended, and where it was not asked for.

    sequences: the answers with what the frozen lower layers make of them, where there are such layers.
    """

    sequences: Sequences
    logprobs: Tensor
    entropy: Tensor
    reference: Tensor
    values: Tensor


@torch.no_grad()
def evaluate(
    models: ActorCritic,
    sequences: Sequences,
    temperature: float,
    microbatch: int,
    *,
    policy: bool,
    critic: bool,
) -> Evaluation:
    """The reference is always asked, `policy` and `critic` if told to. Results are on the CPU."""
    device = models.value_head.weight.device
    sequences = prepare(models, sequences, microbatch)
    mask = sequences.response_mask
    logprobs, entropy, reference, values = (torch.zeros(mask.shape) for _ in range(4))
    mine = share(sequences.lengths)
    for rows in microbatches(sequences, mine, microbatch):
        batch = sequences.select(rows).to(device)
        asked: list[tuple[Tensor, Tensor]] = [(reference, models.reference_logprobs(batch, temperature))]
        if policy and critic:
            answer = models.policy_and_values(batch, temperature)
            asked += zip((logprobs, entropy, values), answer, strict=True)
        elif policy:
            asked += zip((logprobs, entropy), models.policy_logprobs(batch, temperature), strict=True)
        elif critic:
            asked.append((values, models.values(batch)))
        for whole, part in asked:
            whole[rows, : part.shape[1]] = part.cpu()
    fill_in(mine, logprobs, entropy, reference, values)
    return Evaluation(sequences, logprobs, entropy, reference, values)


def prepare(models: ActorCritic, sequences: Sequences, microbatch: int) -> Sequences:
    """The answers with what the frozen lower layers make of them, where there are such layers."""
    device = models.value_head.weight.device
    together: Tensor | None = None
    mine = share(sequences.lengths)
    for rows in microbatches(sequences, mine, microbatch):
        states = models.prepare(sequences.select(rows).to(device)).states
        if states is None:
            return sequences
        if together is None:
            together = torch.zeros(*sequences.ids.shape, states.shape[-1], dtype=states.dtype)
        together[rows, : states.shape[1]] = states.cpu()
    if together is None:
        return sequences
    fill_in(mine, together)
    return sequences.with_states(together)
