"""What samples: one key, `engine`, chooses; the rest of a config is the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from alignment.config import Section
from alignment.console import note
from alignment.errors import AlignmentError
from alignment.models import base_of, context_length, resolve, stop_token_ids
from rollout.types import RolloutEngine
from rollout.weights import has_adapters, is_four_bit

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from rollout.transformers_engine import TransformersEngine

EngineName = Literal["transformers", "vllm", "vllm-server"]


class VllmConfig(Section):
    """For engine=vllm and engine=vllm-server."""

    max_model_len: int = Field(
        4096,
        ge=2,
        description="vllm: tokens of the longest prompt with its answer; the model's own limit, if that is less",
    )
    cache_gib: float = Field(4.0, gt=0, description="vllm: memory for keys and values, in GiB")
    urls: list[str] = Field(
        ["http://127.0.0.1:8000"], min_length=1, description="vllm-server: where the servers are"
    )
    timeout_seconds: float = Field(
        600.0,
        gt=0,
        description="vllm-server: longest wait for an answer, for new weights to be taken, or for a "
        "server to come back",
    )
    exchange: str | None = Field(
        None,
        description="vllm-server: a folder that servers on other machines share with this one, for weights",
    )


def build_engine(
    name: EngineName,
    settings: VllmConfig,
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    path: str,
    *,
    seed: int,
    max_batch: int,
    value_head: nn.Linear | None = None,
) -> RolloutEngine:
    """The engine that samples from `policy`, which was loaded from `path`; the embedded one asks `value_head` too.

    One that copies has the base alone at first: the policy is to be delivered (`alignment.delivery`).
    Raises RolloutError, or AlignmentError if vLLM is not installed.
    """
    if name == "transformers":
        return embedded_engine(policy, tokenizer, seed=seed, max_batch=max_batch, value_head=value_head)
    stops, base = stop_token_ids(policy, tokenizer), base_of(resolve(path))
    if name == "vllm-server":
        from rollout.vllm_server_engine import VllmServerEngine

        return VllmServerEngine(
            settings.urls,
            base,
            stops,
            seed=seed,
            adapter_rank=rank_of(policy),
            timeout_seconds=settings.timeout_seconds,
            exchange=Path(settings.exchange) if settings.exchange else None,
            tell=note,
        )
    require_engine(name)
    from rollout.vllm_engine import VllmEngine

    return VllmEngine(
        base,
        stops,
        seed=seed,
        dtype=str(policy.dtype).removeprefix("torch."),
        adapter_rank=None if takes_merged(policy) else rank_of(policy),
        max_batch=max_batch,
        max_model_len=min(context_length(policy), settings.max_model_len),
        cache_gib=settings.cache_gib,
    )


def embedded_engine(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    max_batch: int,
    value_head: nn.Linear | None = None,
) -> TransformersEngine:
    """The engine that samples from `model` in this process, and asks `value_head`, a critic's on its trunk."""
    from rollout.transformers_engine import TransformersEngine

    stops = stop_token_ids(model, tokenizer)
    return TransformersEngine(
        model, stops, tokenizer.pad_token_id, seed=seed, max_batch=max_batch, value_head=value_head
    )


def rank_of(policy: Any) -> int | None:
    """The rank of the policy's adapter, None if it has none of that kind."""
    return getattr(policy.peft_config[policy.active_adapter], "r", None) if has_adapters(policy) else None


def takes_merged(policy: Any) -> bool:
    """Whether vLLM in this process is given the adapter merged into whole weights.

    An adapter stays an adapter, but on a CPU: vLLM's adapters take five times as long there as weights that they are
    merged into, and a merge takes a hundredth of an iteration. 4-bit weights hold no adapter.
    """
    return policy.device.type == "cpu" and not is_four_bit(policy)


def require_engine(name: str) -> None:
    """Raises AlignmentError, naming the extra, if the engine is not installed."""
    if name == "vllm" and importlib.util.find_spec("vllm") is None:
        from rollout.vllm_engine import INSTALL

        raise AlignmentError(f"engine=vllm needs vLLM, which is not installed: {INSTALL}")
