"""Policy, reference and critic behind one face, in as few copies of the weights as the tuning allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from alignment.ppo.sequences import Sequences

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

POLICY, CRITIC, REFERENCE = "default", "critic", "reference"


class ActorCritic(Protocol):
    """What the trainer asks of its models. All per-token results are rows (b, r), 0 where a row has ended."""

    value_head: nn.Linear

    def policy(self) -> PreTrainedModel:
        """The model that generates, ready to (its adapter active)."""
        ...

    def policy_logprobs(self, batch: Sequences, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (detached) of the response tokens, fp32."""
        ...

    def reference_logprobs(self, batch: Sequences, temperature: float) -> Tensor: ...

    def values(self, batch: Sequences) -> Tensor:
        """The critic's value before each response token, fp32."""
        ...

    def policy_parameters(self) -> list[nn.Parameter]: ...

    def critic_parameters(self) -> list[nn.Parameter]: ...

    def trained_state(self) -> dict[str, Tensor]:
        """Every trained tensor by name; load_trained_state puts them back."""
        ...

    def load_trained_state(self, state: dict[str, Tensor]) -> None: ...

    def save_policy(self, folder: Path) -> None: ...

    def to(self, device: torch.device) -> Any: ...


class AdapterActorCritic(nn.Module):
    """One frozen base: the policy and the critic are adapters on it, the reference is it with adapters off.

    If the policy started from an adapter, the reference is a frozen copy of that adapter instead.
    """

    def __init__(self, model: PeftModel, value_head: nn.Linear) -> None:
        super().__init__()
        self.model = model
        self.value_head = value_head
        self.has_reference_adapter = REFERENCE in model.peft_config
        self.model.set_adapter(POLICY)

    def policy(self) -> PreTrainedModel:
        self.model.set_adapter(POLICY)
        return self.model

    def policy_logprobs(self, batch: Sequences, temperature: float) -> tuple[Tensor, Tensor]:
        self.model.set_adapter(POLICY)
        return response_logprobs(self.model.get_base_model(), batch, temperature)

    @torch.no_grad()
    def reference_logprobs(self, batch: Sequences, temperature: float) -> Tensor:
        if self.has_reference_adapter:
            self.model.set_adapter(REFERENCE, inference_mode=True)
            return response_logprobs(self.model.get_base_model(), batch, temperature)[0]
        with self.model.disable_adapter():
            return response_logprobs(self.model.get_base_model(), batch, temperature)[0]

    def values(self, batch: Sequences) -> Tensor:
        self.model.set_adapter(CRITIC)
        return response_values(self.model.get_base_model(), self.value_head, batch)

    def policy_parameters(self) -> list[nn.Parameter]:
        return [p for _, p in self._adapter(POLICY)]

    def critic_parameters(self) -> list[nn.Parameter]:
        return [*(p for _, p in self._adapter(CRITIC)), *self.value_head.parameters()]

    def _adapter(self, name: str) -> Iterator[tuple[str, nn.Parameter]]:
        return ((key, p) for key, p in self.model.named_parameters() if f".{name}." in f"{key}.")

    def trained_state(self) -> dict[str, Tensor]:
        adapters = {key: p.detach() for role in (POLICY, CRITIC) for key, p in self._adapter(role)}
        return adapters | {f"value_head.{key}": p.detach() for key, p in self.value_head.named_parameters()}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        load_exactly(self.trained_state(), state)

    def save_policy(self, folder: Path) -> None:
        self.model.save_pretrained(folder, selected_adapters=[POLICY])


class FullActorCritic(nn.Module):
    """Every weight is trained: the policy, a critic with a trunk of its own, and a frozen copy as the reference."""

    def __init__(
        self,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        critic: PreTrainedModel,
        value_head: nn.Linear,
    ) -> None:
        super().__init__()
        self.policy_model = policy
        self.reference = reference.requires_grad_(False)
        self.critic = critic
        self.value_head = value_head

    def policy(self) -> PreTrainedModel:
        return self.policy_model

    def policy_logprobs(self, batch: Sequences, temperature: float) -> tuple[Tensor, Tensor]:
        return response_logprobs(self.policy_model, batch, temperature)

    @torch.no_grad()
    def reference_logprobs(self, batch: Sequences, temperature: float) -> Tensor:
        return response_logprobs(self.reference, batch, temperature)[0]

    def values(self, batch: Sequences) -> Tensor:
        return response_values(self.critic, self.value_head, batch)

    def policy_parameters(self) -> list[nn.Parameter]:
        return list(self.policy_model.parameters())

    def critic_parameters(self) -> list[nn.Parameter]:
        return [*trunk(self.critic).parameters(), *self.value_head.parameters()]

    def trained_state(self) -> dict[str, Tensor]:
        parts = {"policy": self.policy_model, "critic": trunk(self.critic), "value_head": self.value_head}
        return {f"{part}.{key}": p.detach() for part, m in parts.items() for key, p in m.named_parameters()}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        load_exactly(self.trained_state(), state)

    def save_policy(self, folder: Path) -> None:
        self.policy_model.save_pretrained(folder)


def trunk(model: PreTrainedModel) -> nn.Module:
    """The transformer under a head: a causal model's or a classifier's."""
    return getattr(model, model.base_model_prefix)


def response_states(model: PreTrainedModel, batch: Sequences) -> Tensor:
    """Hidden states (n, d) at the positions that predict the response tokens; nothing else reaches a head."""
    states = trunk(model)(input_ids=batch.ids, use_cache=False).last_hidden_state
    return states[batch.predicts]


def response_logprobs(model: PreTrainedModel, batch: Sequences, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities (with gradient) and entropies (without) of the response tokens: two (b, r), fp32, nats.

    Logits are divided by the sampling temperature, so that these are probabilities of what was really sampled.
    """
    logits = model.get_output_embeddings()(response_states(model, batch)).float()
    softcap = getattr(model.config, "final_logit_softcapping", None)
    if softcap:
        logits = torch.tanh(logits / softcap) * softcap
    everything = torch.log_softmax(logits / temperature, dim=-1)  # (n, v)
    chosen = everything.gather(-1, batch.targets[:, None]).squeeze(-1)
    with torch.no_grad():
        entropy = -(everything.exp() * everything).sum(-1)
    return batch.to_rows(chosen), batch.to_rows(entropy)


def response_values(model: PreTrainedModel, head: nn.Linear, batch: Sequences) -> Tensor:
    """The value before each response token: (b, r), fp32."""
    states = response_states(model, batch).to(head.weight.dtype)
    return batch.to_rows(head(states).squeeze(-1).float())


def disable_dropout(model: nn.Module) -> None:
    """Dropout 0 everywhere, LoRA's included: ratios compare the same function at two moments, not two masks."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010  attention layers keep theirs as a number


def load_exactly(own: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Copy `state` into the tensors of `own` in place. Raises ValueError unless the names are the same."""
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        raise ValueError(f"the checkpoint does not fit this model: {len(odd)} names differ, e.g. {odd[0]}")
    for key, tensor in own.items():
        tensor.copy_(state[key])
