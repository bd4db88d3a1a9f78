"""Making the actor-critic from a config: which weights are shared, and where the critic starts."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alignment.errors import AlignmentError
from alignment.models import base_of, frozen_dtype, is_adapter, load_policy, resolve, torch_dtype
from alignment.ppo.actor_critic import (
    CRITIC,
    REFERENCE,
    ActorCritic,
    AdapterActorCritic,
    FullActorCritic,
    disable_dropout,
)
from alignment.ppo.config import PPOConfig
from alignment.ppo.kernels import fuse_layers
from alignment.ppo.low_rank import fuse_adapters
from alignment.ppo.processes import world_size
from alignment.ppo.sharding import split_layers
from alignment.tuning.apply import apply_tuning, free_weights, peft_config
from reward.card import RewardCard
from reward.specs import is_learned

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_actor_critic(config: PPOConfig) -> tuple[ActorCritic, str]:
    """The models of a PPO run on the CPU, and a line that says how they share weights.

    Raises AlignmentError where the policy, the tuning and the reward model do not fit together.
    """
    torch.manual_seed(config.seed)  # new adapters start alike in every process
    models, line = _full(config) if config.tuning.method == "full" else _adapters(config)
    models.entropy_gradient = config.entropy_coef > 0
    models.shortcuts = replace(models.shortcuts, checkpointed=config.gradient_checkpointing)
    line = line if config.has_critic else f"{line.rpartition(';')[0]}; no critic"
    if config.shard and world_size() > 1:
        split_layers(models)
        line += f"; layers split over {world_size()} processes"
    return models, line


def place(models: ActorCritic, config: PPOConfig, device: torch.device) -> None:
    """Move the models to where they compute, their layers in as few passes as they need there."""
    models.to(device)
    if not config.shard:
        fuse_layers(models.trunks(), everywhere=config.reference_on_cpu)


def _adapters(config: PPOConfig) -> tuple[ActorCritic, str]:
    from peft import PeftModel

    path = resolve(config.policy.path)
    bits = config.tuning.bits
    dtype = config.policy.dtype if bits else frozen_dtype(config.policy.dtype)
    start = load_policy(path, dtype, four_bit=bits == 4, eight_bit=bits == 8, trainable=True)
    if isinstance(start, PeftModel):
        model = start
        model.load_adapter(path, adapter_name=REFERENCE, is_trainable=False)
        reference = "the reference is a frozen copy of the starting adapter"
    else:
        model = apply_tuning(start, config.tuning, "CAUSAL_LM")
        reference = "the reference is the base with adapters off"
    head = nn.Linear(hidden_size(model), 1)
    nn.init.zeros_(head.weight)
    critic = "the critic is a value head on the policy's trunk"
    if config.critic.trunk == "own":
        critic = _critic_adapter(model, head, config)
    disable_dropout(model)
    fuse_adapters(model)
    return AdapterActorCritic(model, head), f"one base in memory: {reference}; {critic}"


def _critic_adapter(model: Any, head: nn.Linear, config: PPOConfig) -> str:
    """Add the critic's adapter, from the reward model's where it is an adapter on the same base."""
    from peft import LoraConfig, PeftConfig, set_peft_model_state_dict

    base = model.get_base_model()
    fresh = peft_config(config.tuning, "CAUSAL_LM", base)
    if config.critic.init == "reward" and is_learned(config.reward):
        folder = resolve(str(config.reward))
        if is_adapter(folder) and same_place(base_of(folder), base.config._name_or_path):
            weights, score = reward_adapter(folder)
            shape = PeftConfig.from_pretrained(folder)
            settings = {
                k: getattr(shape, k)
                for k in ("r", "lora_alpha", "target_modules", "target_parameters", "use_rslora", "use_dora")
            }
            model.add_adapter(CRITIC, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **settings))
            outcome = set_peft_model_state_dict(model, weights, adapter_name=CRITIC)
            if outcome.unexpected_keys:
                raise AlignmentError(
                    f"the reward adapter {folder} does not fit the policy: {outcome.unexpected_keys[0]}"
                )
            start_from_score(head, score, folder)
            return "the critic starts from the reward adapter"
        model.add_adapter(CRITIC, fresh)
        return "the critic is a new adapter with a zero head (the reward model is no adapter on this base)"
    model.add_adapter(CRITIC, fresh)
    return f"the critic is a new adapter with a zero head{why_not_from_reward(config)}"


def _full(config: PPOConfig) -> tuple[ActorCritic, str]:
    path = resolve(config.policy.path)
    if is_adapter(path):
        raise AlignmentError(
            f"tuning.method is full, but {path} is an adapter: merge it first or use tuning.method=lora"
        )
    policy = load_policy(path, config.policy.dtype)
    reference = copy.deepcopy(policy)
    head = nn.Linear(hidden_size(policy), 1)
    nn.init.zeros_(head.weight)
    critic, line = _full_critic(policy, head, config)
    for model in (policy, reference, critic):
        if model is not None:
            disable_dropout(model)
    free_weights(policy, config.tuning)
    models = FullActorCritic(policy, reference, critic, head, reference_on_cpu=config.reference_on_cpu)
    place = " on the CPU" if config.reference_on_cpu else ""
    return models, f"full tuning: a frozen reference copy{place}; {line}"


def _full_critic(
    policy: PreTrainedModel, head: nn.Linear, config: PPOConfig
) -> tuple[PreTrainedModel | None, str]:
    if config.critic.trunk == "policy":
        return None, "the critic is a value head on the policy's trunk"
    folder = resolve(str(config.reward)) if is_learned(config.reward) else ""
    if config.critic.init == "reward" and folder and not is_adapter(folder):
        from transformers import AutoModelForSequenceClassification

        critic = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, dtype=torch_dtype(config.policy.dtype), use_safetensors=True
        )
        if critic.config.vocab_size == policy.config.vocab_size:
            start_from_score(head, critic.score.weight.detach(), folder)
            return critic, "the critic starts from the reward model"
    critic = copy.deepcopy(policy)
    return critic, f"the critic is a copy of the policy with a zero head{why_not_from_reward(config)}"


def why_not_from_reward(config: PPOConfig) -> str:
    """Words to add where critic.init asks for a start from a reward model and there is not one such."""
    if config.critic.init == "zero" or is_learned(config.reward):
        return ""
    return " (the reward is not one learned model to start from)"


def reward_adapter(folder: str) -> tuple[dict[str, Tensor], Tensor]:
    """The adapter weights of a reward model folder, and its score head's weight (1, d) taken out of them."""
    from safetensors.torch import load_file

    weights = load_file(Path(folder) / "adapter_model.safetensors")
    scores = [key for key in weights if ".score." in key]
    if len(scores) != 1:
        raise AlignmentError(
            f"{folder} has {len(scores)} score heads saved beside its adapter, not 1: train it again"
        )
    return {k: v for k, v in weights.items() if k not in scores}, weights[scores[0]]


def start_from_score(head: nn.Linear, score: Tensor, folder: str) -> None:
    """Value head = the reward model's head on normalised scores: w / std, -mean / std."""
    card = RewardCard.read(Path(folder))
    with torch.no_grad():
        head.weight.copy_(score / card.score_std)
        head.bias.fill_(-card.score_mean / card.score_std)


def hidden_size(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[1])


def same_place(one: str, other: str) -> bool:
    return one == other or (Path(one).exists() and Path(other).exists() and Path(one).samefile(other))
