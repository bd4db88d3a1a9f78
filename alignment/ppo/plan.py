"""`align ppo --dry-run`: what would be done, and roughly what it would hold in memory."""

from __future__ import annotations

from typing import Any

from alignment.engines import require_engine
from alignment.footprint import footprint
from alignment.models import resolve
from alignment.ppo.config import PPOConfig, ProbeConfig
from alignment.prompts import Message, load_prompts
from alignment.scorers import resolve_reward
from alignment.trackers import require_trackers
from alignment.tuning.apply import require_stage

PROMPT_TOKENS = 256  # assumed: the tokenizer is not loaded to plan


def require_parts(config: PPOConfig) -> list[list[Message]]:
    """The prompts to train on. Raises AlignmentError for anything else, too, that a run needs and is not there: before
    there is a run folder or a model is loaded."""
    require_stage(config.tuning, "ppo")
    require_trackers(config.track)
    require_engine(config.engine)
    resolve(config.policy.path)
    resolve_reward(config.reward)
    if config.probe:
        resolve_reward(config.probe.gold)
        load_prompts(config.probe.prompts)
    return load_prompts(config.prompts)


def plan(config: PPOConfig) -> dict[str, Any]:
    """Steps, tokens and memory of a run. Raises AlignmentError for what is not there."""
    prompts = len(require_parts(config))
    episodes = config.iterations * config.episodes
    size = footprint(
        config.policy.path,
        config.policy.dtype,
        config.tuning,
        rows=config.microbatch,
        tokens=PROMPT_TOKENS + config.sampling.max_new_tokens,
        checkpointed=config.gradient_checkpointing,
    )
    copies = 3 if config.tuning.method == "full" else 1
    return {
        "policy": resolve(config.policy.path),
        "reward": resolve_reward(config.reward),
        "prompts": f"{prompts}, each answered {episodes / prompts:.1f} times",
        "sampled by": config.engine,
        "iterations": config.iterations,
        "answers": episodes,
        "tokens to sample, at most": episodes * config.sampling.max_new_tokens,
        "optimizer steps": config.iterations * config.epochs * config.minibatches,
        **({"probe": probed(config.probe)} if config.probe else {}),
        **size.plan(copies=copies, trained=2),
    }


def probed(config: ProbeConfig) -> str:
    gold = resolve_reward(config.gold)
    return f"{len(load_prompts(config.prompts))} prompts every {config.every} iterations, scored by {gold}"
