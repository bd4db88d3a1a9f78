"""`align rollout`: a policy answers prompts, and the answers become comparisons, preference pairs or an SFT set.

The run folder's answers.jsonl is the record of what is done. A rerun with the same config goes on after it, and
since every piece of work has a seed of its own, ends where an unbroken run would have.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from alignment.answers import Answered, EndpointSource, EngineSource, Source, text_of
from alignment.config import Section
from alignment.console import note, progress_bar
from alignment.delivery import deliver
from alignment.engines import EngineName, VllmConfig, build_engine, embedded_engine, require_engine
from alignment.errors import AlignmentError
from alignment.kept import FOR_SFT, Keep
from alignment.models import ModelConfig, context_length, load_policy, load_tokenizer, resolve
from alignment.prompts import EncodedPrompt, Message, encode_prompts, load_prompts
from alignment.rollout_record import ANSWERS, comparisons, finish, made, open_run, record, unfinished
from alignment.runs import RunFolder
from alignment.scorers import Reward, load_scorer, resolve_reward
from labeling.hashing import prompt_hash
from rollout.endpoint import Endpoint
from rollout.openai_engine import OpenAIEngine
from rollout.types import Sampling

if TYPE_CHECKING:
    from labeling.store import Store
    from reward.scorer import Scorer

__all__ = ["RolloutConfig", "collect_rollouts", "device", "embedded_engine", "plan", "text_of"]
MOST_SIDES = 9  # that a comparison in the store can have


class RolloutConfig(Section):
    """`align rollout`: sample answers to each prompt, and keep them as comparisons or as training data."""

    run: str = Field(description="run folder, e.g. runs/rollout; the same config continues it")
    policy: ModelConfig = Field(
        description="who answers; with engine=openai, path is its name at the endpoint"
    )
    engine: Literal[EngineName, "openai"] = Field(
        "transformers",
        description="what samples: transformers or vllm in this process, vllm-server, or the endpoint in `endpoint`",
    )
    vllm: VllmConfig = VllmConfig()
    endpoint: Endpoint = Field(Endpoint(), description="for engine=openai")
    name: str = Field("", description="what the store calls the policy; its path if empty")
    prompts: str = Field(description="JSONL or Parquet with a `prompt` column")
    limit: int | None = Field(None, ge=1, description="only the first so many prompts")
    completions: int = Field(2, ge=1, description="answers a prompt: 2 make a pair, more a ranking")
    reward: Reward | None = None
    keep: Keep = Field(
        "all",
        description="all: every answer, a comparison; pair: best and worst by `reward`; best: the best one, and "
        "accepted: each one from `min_score` up, as an SFT set",
    )
    min_score: float | None = Field(None, description="for best and accepted: lower scores are not kept")
    store: str | None = Field(
        "align.db", description="where comparisons go; null: only to files in the run folder"
    )
    sampling: Sampling = Sampling()
    batch_size: int = Field(64, ge=1, description="answers sampled at once")
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> RolloutConfig:
        if self.keep != "all" and self.reward is None:
            raise ValueError(f"keep={self.keep} chooses by score: set `reward` to what scores the answers")
        if self.keep == "accepted" and self.min_score is None:
            raise ValueError("keep=accepted needs min_score: the lowest score that is kept")
        if self.min_score is not None and self.keep not in FOR_SFT:
            raise ValueError("min_score is for keep=best and keep=accepted")
        if self.completions < 2 and (self.keep == "pair" or (self.keep == "all" and self.store is not None)):
            raise ValueError("a comparison needs two answers: set completions=2, or store=null to keep one")
        if self.completions > MOST_SIDES and self.keep == "all" and self.store is not None:
            raise ValueError(
                f"people rank at most {MOST_SIDES} answers: set completions lower, store=null, or keep=pair"
            )
        if self.engine != "openai" and "endpoint" in self.model_fields_set and self.endpoint != Endpoint():
            raise ValueError("`endpoint` is for engine=openai")
        if self.engine not in ("vllm", "vllm-server") and self.vllm != VllmConfig():
            raise ValueError("`vllm` is for engine=vllm and engine=vllm-server")
        return self


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def collect_rollouts(config: RolloutConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Sample, score, keep, count; returns the figures of summary.json and `tokens_per_second` of this call.

    Raises AlignmentError for settings or prompts that differ from those the run folder was begun with.
    """
    require_engine(config.engine)
    prompts = load_prompts(config.prompts)[: config.limit]
    if config.reward is not None:
        resolve_reward(config.reward)  # what is not there is said before anything is loaded
    store = open_store(destination(config), prompts, config.prompts)
    source, fitting, run = open_source(config, prompts, overwrite=overwrite)
    scorer = load_scorer(config.reward, device()) if config.reward is not None else None
    kept = without_repeats(fitting)
    pieces = [kept[start : start + source.piece] for start in range(0, len(kept), source.piece)]
    left = unfinished(run, pieces)
    if done := len(kept) - sum(map(len, left)):
        note(f"rollout: {done} of {len(kept)} prompts were done before; going on after them")
        if store:  # a kill may have come between the record and the store
            store.add_comparisons(comparisons(config, run.rows(ANSWERS)[-source.piece :]))

    tokens, started = 0, time.perf_counter()
    with progress_bar("rollout", len(kept)) as advance:
        advance(done)
        for answered in source.stream(left):
            record(config, run, store, scored(answered, scorer) if scorer else answered)
            tokens += sum(a.tokens for a in answered)
            advance(len(answered), **{"tokens/s": tokens / (time.perf_counter() - started)})
    seconds = time.perf_counter() - started
    figures = finish(config, run) | {
        "too_long": len(prompts) - len(fitting),
        "repeated_prompts": len(fitting) - len(kept),
    }
    run.summarize(figures)
    run.log({"seconds": seconds, "tokens": tokens}, "timings.jsonl")
    return figures | {"tokens_per_second": tokens / seconds}


def plan(config: RolloutConfig) -> dict[str, Any]:
    """What `collect_rollouts` would do, without loading a model."""
    require_engine(config.engine)
    prompts = len(load_prompts(config.prompts)[: config.limit])
    answers = prompts * config.completions
    reward = {} if config.reward is None else {"scored by": resolve_reward(config.reward)}
    return {
        "policy": f"{config.policy.path} at {config.endpoint.base_url}"
        if config.engine == "openai"
        else resolve(config.policy.path),
        "prompts": prompts,
        "answers": answers,
        "tokens to sample, at most": answers * config.sampling.max_new_tokens,
        **reward,
        "answers go to": ", ".join(
            filter(None, [destination(config), f"{config.run}/{made(config) or ANSWERS}"])
        ),
    }


def destination(config: RolloutConfig) -> str | None:
    """The store's URL, if what is kept are comparisons."""
    return None if config.keep in FOR_SFT else config.store


def open_store(url: str | None, prompts: Sequence[list[Message]], file: str) -> Store | None:
    """The store that answers to the prompts of `file` go to, if any. Raises AlignmentError for a prompt that it would
    not take, before anything is sampled."""
    if url is None:
        return None
    from labeling.errors import LabelingError
    from labeling.messages import check_prompt
    from labeling.store import Store

    for number, prompt in enumerate(prompts, 1):
        try:
            check_prompt(prompt)
        except LabelingError as error:
            raise AlignmentError(f"{file}, row {number}: {error}") from None
    return Store.open(url)


def open_source(
    config: RolloutConfig, prompts: Sequence[list[Message]], *, overwrite: bool
) -> tuple[Source, list[EncodedPrompt], RunFolder]:
    """What answers, the prompts that are short enough for it, and the run folder."""
    settings: dict[str, Any] = {
        "completions": config.completions,
        "sampling": config.sampling,
        "seed": config.seed,
    }
    if config.engine == "openai":
        served = OpenAIEngine(config.policy.path, config.endpoint)
        fitting = [EncodedPrompt(row, prompt, []) for row, prompt in enumerate(prompts, 1)]
        return EndpointSource(served, **settings), fitting, open_run(config, overwrite=overwrite)
    tokenizer = load_tokenizer(config.policy.path)
    run = open_run(config, overwrite=overwrite)
    model = load_policy(config.policy.path, config.policy.dtype)
    engine = build_engine(
        config.engine,
        config.vllm,
        model if config.engine != "transformers" else model.to(device()),
        tokenizer,
        config.policy.path,
        seed=config.seed,
        max_batch=config.batch_size,
    )
    room = min(context_length(model), engine.context) - config.sampling.max_new_tokens
    fitting = encode_prompts(prompts, tokenizer, room, run.path / "rejected_prompts.jsonl")
    deliver(engine, model, fitting[0].ids)
    return EngineSource(engine, tokenizer, batch_size=config.batch_size, **settings), fitting, run


def without_repeats(prompts: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
    """The prompts, each once."""
    first: dict[str, EncodedPrompt] = {}
    for prompt in prompts:
        first.setdefault(prompt_hash(prompt.messages), prompt)
    if repeats := len(prompts) - len(first):
        note(f"rollout: {repeats} prompts stand in the file more than once; each is answered once")
    return list(first.values())


def scored(answered: Sequence[Answered], scorer: Scorer) -> list[Answered]:
    scores = iter(
        scorer.score([a.conversation(one.prompt.messages) for one in answered for a in one.answers])
    )
    return [replace(one, answers=[replace(a, score=next(scores)) for a in one.answers]) for one in answered]
