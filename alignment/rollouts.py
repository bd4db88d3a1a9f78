"""`align rollout`: a policy answers prompts, and the answers become comparisons for annotators.

The run folder's answers.jsonl is the record of what is done. A rerun with the same config goes on after it,
and since every batch has a seed of its own, ends where an unbroken run would have.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignment.config import Section
from alignment.console import note, progress_bar
from alignment.errors import AlignmentError
from alignment.models import ModelConfig, context_length, load_policy, load_tokenizer, resolve, stop_token_ids
from alignment.prompts import EncodedPrompt, encode_prompts, load_prompts
from alignment.runs import RunFolder
from rollout.types import Completion, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from labeling.store import Store
    from rollout.transformers_engine import TransformersEngine


class RolloutConfig(Section):
    """`align rollout`: sample answers to each prompt and store them as comparisons."""

    run: str = Field(description="run folder, e.g. runs/rollout; the same config continues it")
    policy: ModelConfig
    name: str = Field("", description="what the store calls the policy; its path if empty")
    prompts: str = Field(description="JSONL or Parquet with a `prompt` column")
    limit: int | None = Field(None, ge=1, description="only the first so many prompts")
    store: str | None = Field(
        "align.db", description="where comparisons go; null: only to answers.jsonl in the run folder"
    )
    completions: int = Field(2, ge=1, le=9, description="answers a prompt: 2 make a pair, more a ranking")
    sampling: Sampling = Sampling()
    batch_size: int = Field(64, ge=1, description="answers sampled at once")
    seed: int = 0


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def embedded_engine(
    model: Any, tokenizer: PreTrainedTokenizerBase, *, seed: int, max_batch: int
) -> TransformersEngine:
    """The engine that samples from `model` in this process."""
    from rollout.transformers_engine import TransformersEngine

    stops = stop_token_ids(model, tokenizer)
    return TransformersEngine(model, stops, tokenizer.pad_token_id, seed=seed, max_batch=max_batch)


def text_of(completion: Completion, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(completion.token_ids, skip_special_tokens=True))


def collect_rollouts(config: RolloutConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Sample, store, count; returns the figures of summary.json and `tokens_per_second` of this call.

    Raises AlignmentError for settings or prompts that differ from those the run folder was begun with.
    """
    from labeling.store import Store

    if config.store is not None and config.completions < 2:
        raise AlignmentError("a comparison needs two answers: set completions=2, or store=null to keep one")
    prompts = load_prompts(config.prompts)[: config.limit]
    tokenizer = load_tokenizer(config.policy.path)
    run = open_run(config, overwrite=overwrite)
    model = load_policy(config.policy.path, config.policy.dtype).to(device())
    room = context_length(model) - config.sampling.max_new_tokens
    kept = encode_prompts(prompts, tokenizer, room, run.path / "rejected_prompts.jsonl")

    step = max(1, config.batch_size // config.completions)
    done = finished_rows(run, kept, step)
    if done:
        note(f"rollout: {done} of {len(kept)} prompts were done before; going on after them")
    tokens, started = 0, time.perf_counter()
    store = Store.open(config.store) if config.store is not None else None
    with progress_bar("rollout", len(kept)) as advance:
        advance(done)
        for start in range(done, len(kept), step):
            batch = kept[start : start + step]
            engine = embedded_engine(
                model, tokenizer, seed=batch_seed(config.seed, start), max_batch=config.batch_size
            )
            repeated = [p.ids for p in batch for _ in range(config.completions)]
            answers = engine.generate(repeated, config.sampling)
            groups = [answers[i : i + config.completions] for i in range(0, len(answers), config.completions)]
            texts = [[text_of(c, tokenizer) for c in group] for group in groups]
            outcomes = add_to_store(store, config, batch, groups, texts) if store else [None] * len(batch)
            append_rows(run, batch, groups, texts, outcomes)
            tokens += sum(len(c.token_ids) for c in answers)
            speed = tokens / (time.perf_counter() - started)
            advance(len(batch), **{"tokens/s": speed})
    figures = count(run.rows("answers.jsonl"), rejected=len(prompts) - len(kept))
    run.summarize(figures)
    seconds = time.perf_counter() - started
    run.log({"seconds": seconds, "tokens": tokens}, "timings.jsonl")
    return figures | {"tokens_per_second": tokens / seconds}


def plan(config: RolloutConfig) -> dict[str, Any]:
    """What `collect_rollouts` would do, without loading a model."""
    prompts = len(load_prompts(config.prompts)[: config.limit])
    answers = prompts * config.completions
    return {
        "policy": resolve(config.policy.path),
        "prompts": prompts,
        "answers": answers,
        "tokens to sample, at most": answers * config.sampling.max_new_tokens,
        "answers go to": config.store or f"{config.run}/answers.jsonl only",
    }


def open_run(config: RolloutConfig, *, overwrite: bool) -> RunFolder:
    """The run folder, new or begun before with the same config."""
    run = RunFolder(Path(config.run))
    if overwrite or not (run.path / "config.yaml").exists():
        return RunFolder.create(run.path, config, overwrite=overwrite)
    if changed := run.changed_keys(config):
        raise AlignmentError(
            f"{run.path} was begun with other settings ({', '.join(changed)} changed): "
            "choose another `run`, or start it again with --overwrite"
        )
    return run


def finished_rows(run: RunFolder, prompts: Sequence[EncodedPrompt], step: int) -> int:
    """How many prompts an earlier call finished, in whole batches of `step`; rows of a torn batch are dropped.

    Raises AlignmentError if they are not the prompts of this call.
    """
    whole = len(run.lines("answers.jsonl"))
    done = whole if whole == len(prompts) else whole - whole % step
    run.keep_rows(done, "answers.jsonl")
    rows = run.rows("answers.jsonl")
    if len(rows) > len(prompts) or any(
        row["prompt"] != p.messages for row, p in zip(rows, prompts, strict=False)
    ):
        raise AlignmentError(
            f"the prompts are not those that {run.path} was begun with: start again with --overwrite"
        )
    return done


def batch_seed(seed: int, start: int) -> int:
    """A seed for the batch that starts at prompt `start`: far from those of other runs' seeds."""
    return seed * 1_000_003 + start


def add_to_store(
    store: Store,
    config: RolloutConfig,
    prompts: Sequence[EncodedPrompt],
    groups: Sequence[Sequence[Completion]],
    texts: Sequence[Sequence[str]],
) -> list[str]:
    """Each prompt's answers as one comparison; returns what the store made of them."""
    from labeling.views import NewComparison, NewCompletion

    name = config.name or config.policy.path
    comparisons = [
        NewComparison(
            prompt=prompt.messages,
            completions=[
                NewCompletion(
                    messages=[{"role": "assistant", "content": text}],
                    model=name,
                    policy_version=completion.policy_version,
                    finish_reason=completion.finish_reason,
                    meta={
                        "tokens": len(completion.token_ids),
                        "sampling": config.sampling.model_dump(),
                        "seed": config.seed,
                    },
                )
                for completion, text in zip(group, answers, strict=True)
            ],
        )
        for prompt, group, answers in zip(prompts, groups, texts, strict=True)
    ]
    return [added.outcome for added in store.add_comparisons(comparisons)]


def append_rows(
    run: RunFolder,
    prompts: Sequence[EncodedPrompt],
    groups: Sequence[Sequence[Completion]],
    texts: Sequence[Sequence[str]],
    outcomes: Sequence[str | None],
) -> None:
    """One line a prompt, the whole batch in one write."""
    lines = [
        json.dumps(
            {
                "prompt": prompt.messages,
                "answers": [
                    {"text": text, "tokens": len(c.token_ids), "finish_reason": c.finish_reason}
                    for c, text in zip(group, answers, strict=True)
                ],
                "outcome": outcome,
            },
            ensure_ascii=False,
        )
        for prompt, group, answers, outcome in zip(prompts, groups, texts, outcomes, strict=True)
    ]
    with (run.path / "answers.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def count(rows: Sequence[dict[str, Any]], *, rejected: int) -> dict[str, Any]:
    """What came of the prompts: every one is either a comparison or under the reason why not."""
    outcomes = Counter(row["outcome"] for row in rows)
    answers = [answer for row in rows for answer in row["answers"]]
    return {
        "prompts": len(rows),
        "too_long": rejected,
        "comparisons": outcomes["added"],
        "identical": outcomes["identical"],
        "empty": outcomes["empty"],
        "duplicates": outcomes["duplicate"],
        "answers": len(answers),
        "truncated": sum(answer["finish_reason"] == "length" for answer in answers),
        "tokens": sum(answer["tokens"] for answer in answers),
    }
