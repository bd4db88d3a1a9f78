"""Policy, reference and critic behind one face, in as few copies of the weights as the tuning allows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from alignment.checkpoints import State
from alignment.ppo.logprobs import chosen_logprobs
from alignment.ppo.sequences import Sequences
from alignment.ppo.sharding import gathered, split_like
from alignment.ppo.trunk import WHOLE, Shortcuts, lower_states, response_states, trunk

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

POLICY, CRITIC, REFERENCE = "default", "critic", "reference"


class ActorCritic(nn.Module, ABC):
    """What the trainer asks of its models. All per-token results are rows (b, r), 0 where a row has ended."""

    value_head: nn.Linear
    shares_trunk: bool  # the value head sits on the policy's own trunk: one forward serves both
    shortcuts: Shortcuts
    entropy_gradient = False  # whether entropies carry one: only an entropy bonus needs it

    @abstractmethod
    def policy(self) -> PreTrainedModel:
        """The model that generates, ready to (its adapter active)."""

    @property
    @abstractmethod
    def language_model(self) -> PreTrainedModel:
        """The causal model under the policy, whose head reads the policy's hidden states."""

    @abstractmethod
    def trunks(self) -> list[PreTrainedModel]:
        """Every model whose layers these roles run through."""

    @abstractmethod
    def policy_states(self, batch: Sequences) -> Tensor:
        """Hidden states (n, d) of the policy before each response token."""

    @abstractmethod
    def critic_states(self, batch: Sequences) -> Tensor:
        """The same of a critic with a trunk of its own."""

    @abstractmethod
    def reference_logprobs(self, batch: Sequences, temperature: float) -> Tensor: ...

    @abstractmethod
    def named_policy_parameters(self) -> list[tuple[str, nn.Parameter]]: ...

    def policy_parameters(self) -> list[nn.Parameter]:
        return [p for _, p in self.named_policy_parameters()]

    @abstractmethod
    def critic_parameters(self) -> list[nn.Parameter]: ...

    @abstractmethod
    def trained_state(self) -> dict[str, Tensor]:
        """Every trained tensor by name; load_trained_state puts them back."""

    def policy_weights(self) -> State | None:
        """What save_policy is to write if the policy's weights are split over processes, which all must ask for."""
        return None

    @abstractmethod
    def save_policy(self, folder: Path, weights: State | None = None) -> None: ...

    def prepare(self, batch: Sequences) -> Sequences:
        """The batch with what need not be computed again while these answers are learned from."""
        return batch

    def policy_logprobs(self, batch: Sequences, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the response tokens, fp32."""
        return self._logprobs(self.policy_states(batch), batch, temperature)

    def values(self, batch: Sequences) -> Tensor:
        """The critic's value before each response token, fp32. On a shared trunk only the head gets gradients."""
        if not self.shares_trunk:
            return values_of(self.value_head, self.critic_states(batch), batch)
        with torch.no_grad():
            states = self.policy_states(batch)
        return values_of(self.value_head, states, batch)

    def policy_and_values(self, batch: Sequences, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values; one forward where the trunk is shared."""
        states = self.policy_states(batch)
        logprobs, entropy = self._logprobs(states, batch, temperature)
        values = values_of(self.value_head, states, batch) if self.shares_trunk else self.values(batch)
        return logprobs, entropy, values

    def _logprobs(self, states: Tensor, batch: Sequences, temperature: float) -> tuple[Tensor, Tensor]:
        return logprobs_of(self.language_model, states, batch, temperature, self.entropy_gradient)

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        load_exactly(self.trained_state(), state)


class AdapterActorCritic(ActorCritic):
    """One frozen base: the policy is an adapter on it, the reference is it with adapters off.

    The critic is an adapter of its own with a value head, or a value head on the policy's trunk. If the policy
    started from an adapter, the reference is a frozen copy of that adapter. Layers below every adapter are run once.
    """

    def __init__(self, model: PeftModel, value_head: nn.Linear) -> None:
        super().__init__()
        self.model = model
        self.value_head = value_head
        self.has_reference_adapter = REFERENCE in model.peft_config
        self.shares_trunk = CRITIC not in model.peft_config
        self.model.set_adapter(POLICY)
        adapters = tuple(f".{name}." for name in model.peft_config)
        names = [name for name, _ in model.named_parameters() if any(a in name for a in adapters)]
        self.shortcuts = Shortcuts.of(self.language_model, names)

    @property
    def language_model(self) -> PreTrainedModel:
        return self.model.get_base_model()

    def trunks(self) -> list[PreTrainedModel]:
        return [self.language_model]

    def policy(self) -> PreTrainedModel:
        self.activate(POLICY)
        return self.model

    def activate(self, adapter: str) -> None:
        """Switch to `adapter`. PEFT goes through every module for it, which a GPU would wait for at each microbatch."""
        if self.model.active_adapter != adapter:
            self.model.set_adapter(adapter)

    def prepare(self, batch: Sequences) -> Sequences:
        if not self.shortcuts.first_layer:
            return batch
        return batch.with_states(lower_states(self.language_model, batch, self.shortcuts))

    def policy_states(self, batch: Sequences) -> Tensor:
        return self._states(POLICY, batch)

    def critic_states(self, batch: Sequences) -> Tensor:
        return self._states(CRITIC, batch)

    def _states(self, adapter: str, batch: Sequences) -> Tensor:
        self.activate(adapter)
        return response_states(self.language_model, batch, self.shortcuts)

    @torch.no_grad()
    def reference_logprobs(self, batch: Sequences, temperature: float) -> Tensor:
        if self.has_reference_adapter:
            self.model.set_adapter(REFERENCE, inference_mode=True)
            return response_logprobs(self.language_model, batch, temperature, self.shortcuts)[0]
        with self.model.disable_adapter():
            return response_logprobs(self.language_model, batch, temperature, self.shortcuts)[0]

    def named_policy_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self._adapter(POLICY))

    def critic_parameters(self) -> list[nn.Parameter]:
        return [*(p for _, p in self._adapter(CRITIC)), *self.value_head.parameters()]

    def _adapter(self, name: str) -> Iterator[tuple[str, nn.Parameter]]:
        return ((key, p) for key, p in self.model.named_parameters() if f".{name}." in f"{key}.")

    def trained_state(self) -> dict[str, Tensor]:
        adapters = {key: p.detach() for role in (POLICY, CRITIC) for key, p in self._adapter(role)}
        return adapters | {f"value_head.{key}": p.detach() for key, p in self.value_head.named_parameters()}

    def save_policy(self, folder: Path, weights: State | None = None) -> None:
        self.model.save_pretrained(folder, selected_adapters=[POLICY])


class FullActorCritic(ActorCritic):
    """Every weight is trained: the policy, a critic with a trunk of its own or on the policy's (None), and a frozen
    copy as the reference, which may stay in the CPU's memory wherever the others go."""

    def __init__(
        self,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        critic: PreTrainedModel | None,
        value_head: nn.Linear,
        reference_on_cpu: bool = False,
    ) -> None:
        super().__init__()
        self.policy_model = policy
        if reference_on_cpu:
            object.__setattr__(self, "reference", reference)  # no submodule: `to` leaves it where it is
        else:
            self.reference = reference
        self.reference.requires_grad_(False)
        self.critic = critic
        self.value_head = value_head
        self.shares_trunk = critic is None
        self.shortcuts = Shortcuts.of(policy)
        self.critic_packs = critic is None or Shortcuts.of(critic).packed  # perhaps it is of another family

    @property
    def language_model(self) -> PreTrainedModel:
        return self.policy_model

    def policy(self) -> PreTrainedModel:
        return self.policy_model

    def trunks(self) -> list[PreTrainedModel]:
        return [m for m in (self.policy_model, self.reference, self.critic) if m is not None]

    def policy_states(self, batch: Sequences) -> Tensor:
        return response_states(self.policy_model, batch, self.shortcuts)

    def critic_states(self, batch: Sequences) -> Tensor:
        packed = self.shortcuts.packed and self.critic_packs
        return response_states(self.critic, batch, replace(self.shortcuts, packed=packed))

    @torch.no_grad()
    def reference_logprobs(self, batch: Sequences, temperature: float) -> Tensor:
        there = batch.to(self.reference.device)
        return response_logprobs(self.reference, there, temperature, self.shortcuts)[0].to(batch.ids.device)

    def named_policy_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.policy_model.named_parameters())

    def critic_parameters(self) -> list[nn.Parameter]:
        own = [] if self.critic is None else trunk(self.critic).parameters()
        return [*own, *self.value_head.parameters()]

    def trained_state(self) -> dict[str, Tensor]:
        parts: dict[str, nn.Module] = {"policy": self.policy_model, "value_head": self.value_head}
        if self.critic is not None:
            parts["critic"] = trunk(self.critic)
        return {f"{part}.{key}": p.detach() for part, m in parts.items() for key, p in m.named_parameters()}

    def policy_weights(self) -> State | None:
        return gathered(self.policy_model.state_dict())

    def save_policy(self, folder: Path, weights: State | None = None) -> None:
        self.policy_model.save_pretrained(folder, state_dict=weights)


def response_logprobs(
    model: PreTrainedModel, batch: Sequences, temperature: float, shortcuts: Shortcuts = WHOLE
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (with gradient) and entropies (without) of the response tokens: two (b, r), fp32, nats.

    Logits are divided by the sampling temperature, so that these are probabilities of what was really sampled.
    """
    return logprobs_of(model, response_states(model, batch, shortcuts), batch, temperature)


def logprobs_of(
    model: PreTrainedModel,
    states: Tensor,
    batch: Sequences,
    temperature: float,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    softcap = getattr(model.config, "final_logit_softcapping", None)
    chosen, entropy = chosen_logprobs(
        model.get_output_embeddings(),
        states,
        batch.targets,
        temperature,
        softcap,
        entropy_gradient=entropy_gradient,
    )
    return batch.to_rows(chosen), batch.to_rows(entropy)


def values_of(head: nn.Linear, states: Tensor, batch: Sequences) -> Tensor:
    """The value before each response token: (b, r), fp32."""
    return batch.to_rows(head(states.to(head.weight.dtype)).squeeze(-1).float())


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
        tensor.copy_(split_like(state[key], tensor))
