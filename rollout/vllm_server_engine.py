"""vLLM on servers: one or several that sample from a policy which every sync delivers to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from rollout.delivery import TOLERANCE
from rollout.endpoint import is_loopback
from rollout.errors import RolloutError
from rollout.seeded import Seeded
from rollout.server_client import START, Description, Reply, ServerClient, UnavailableError
from rollout.server_policy import Adapter, Exchange, Part, Weights
from rollout.server_pool import ServerPool, mean_difference
from rollout.transformers_engine import evaluating
from rollout.types import Completion, Sampling, require_room
from rollout.weights import has_adapters, is_four_bit

PROBED = 16  # tokens, spread over the vocabulary, on which bases are compared


class VllmServerEngine(Seeded):
    """Samples on vLLM servers, started by `align serve MODEL --for-training`.

    Every prompt is sampled with a seed of its own, drawn from the engine's generator, so that answers depend on the
    seed, the prompts and the weights, but for float rounding, and not on which server gave them. A server that fails
    is left out and its prompts are asked of another; one that comes back is given the policy before it is asked.
    """

    copies = True

    def __init__(
        self,
        urls: Sequence[str],
        model: str,
        stop_token_ids: Sequence[int],
        *,
        seed: int = 0,
        adapter_rank: int | None = None,
        timeout_seconds: float = 600.0,
        exchange: Path | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Any of `stop_token_ids` ends an answer. `model` is the policy's base, a hub id or folder.

        adapter_rank: of the LoRA adapter that `sync` will deliver; None if it will be whole weights.
        timeout_seconds: longest wait for one answer, for one delivery, and for a server to come back.
        exchange: a folder that servers on other machines see by the same path; policies pass through it.
        tell: is given a line when a server is left out, and when it is back.

        Raises RolloutError for a server that cannot be reached, is not open to a trainer, or does not fit the policy.
        """
        self.urls = list(dict.fromkeys(address(url) for url in urls))
        if not self.urls:
            raise RolloutError(f"no server's address: start one with {START} and give its address")
        local = all(is_loopback(url) for url in self.urls)
        if exchange is None and not local:
            raise RolloutError(
                "the servers are on other machines: name a folder that they and the trainer share, for the policy's "
                "weights"
            )
        self.model = model
        self.stop_token_ids = list(stop_token_ids)
        self.timeout_seconds = timeout_seconds
        self.tell = tell
        super().__init__(seed)
        self._faults: dict[str, str] = {}
        self._parts: list[Part] = []  # of the policy, as delivered; none: the servers' own base
        self._knows_base = False
        vocabulary = vocabulary_of(model)
        self._probe = probe_ids(vocabulary)
        served = asyncio.run(self._look(adapter_rank, vocabulary))
        self.base, self.dtype = served[0].base, served[0].dtype
        self.context = min(one.context for one in served)
        self._exchange = Exchange(exchange, local=local)

    def generate(
        self, prompt_ids: Sequence[Sequence[int]], sampling: Sampling, rows: Sequence[int] | None = None
    ) -> list[Completion]:
        """One completion for each prompt, in order; cut with "length" where the context ends.

        With `rows`, only those prompts are answered, in that order, and as they would be among all.
        Raises RolloutError for a prompt that is empty or leaves no room in the context, and where no server answers.
        """
        require_room(prompt_ids, self.context)
        seeds = self.request_seeds(len(prompt_ids))
        wanted = list(range(len(prompt_ids)) if rows is None else rows)
        settings = [request(sampling, self.stop_token_ids, seeds[row]) for row in wanted]
        prompts = [list(prompt_ids[row]) for row in wanted]
        replies = asyncio.run(self._complete(prompts, settings)) if wanted else []
        return [
            Completion(reply.token_ids, reply.logprobs, reply.finish_reason, self.version)
            for reply in replies
        ]

    def sync(self, policy: Any) -> int:
        """Deliver the policy's adapter, or its whole weights if it has none, to every server; the new version."""
        if has_adapters(policy) and not self._knows_base and not is_four_bit(policy):
            asyncio.run(self._require_base(policy))
        fresh = self._exchange.write(policy, self.dtype, with_base=not self._knows_base)
        kept = [part for part in self._parts if isinstance(part, Weights)] if has_adapters(policy) else []
        asyncio.run(self._deliver([*kept, *fresh]))
        self._knows_base = True
        self.version += 1
        return self.version

    def close(self) -> None:
        """Take the policy's adapter off the servers. Whole weights stay on them."""
        asyncio.run(self._take_off())
        self._exchange.close()

    def _pool(self) -> ServerPool:
        return ServerPool(self.urls, self._parts, self.timeout_seconds, self._faults, self.tell)

    async def _complete(self, prompts: list[list[int]], settings: list[dict[str, Any]]) -> list[Reply]:
        async with self._pool() as pool:
            return await pool.complete(self._asked(self._parts), prompts, settings)

    def _asked(self, parts: Sequence[Part]) -> str:
        """The name by which servers are asked for a policy."""
        return next((part.name for part in parts if isinstance(part, Adapter)), self.base)

    async def _deliver(self, parts: list[Part]) -> None:
        async with self._pool() as pool:
            await pool.deliver(parts)
            await pool.require_agreement(self._asked(parts), self._probe, TOLERANCE[self.dtype])
            before, self._parts = self._parts, parts
            gone = [part for part in before if part not in parts]
            await pool.take_off(gone)
            self._exchange.remove(gone)

    async def _take_off(self) -> None:
        async with self._pool() as pool:
            await pool.take_off(self._parts)

    async def _look(self, adapter_rank: int | None, vocabulary: int) -> list[Description]:
        """What each server serves. Raises RolloutError for one that does not fit the policy, or the others."""
        served: list[Description] = []
        for url in self.urls:
            async with ServerClient(url, self.timeout_seconds) as server:
                try:
                    description = await server.describe()
                    require_fit(url, description, adapter_rank)
                    await require_vocabulary(server, description, self.model, vocabulary)
                except UnavailableError as error:
                    raise RolloutError(
                        f"cannot use {url} ({error}): is the server running? Start it with {START}"
                    ) from None
            served.append(description)
            if (description.base, description.dtype) != (served[0].base, served[0].dtype):
                raise RolloutError(
                    f"{url} serves {description.base} in {description.dtype}, {self.urls[0]} {served[0].base} in "
                    f"{served[0].dtype}: start them alike"
                )
        return served

    async def _require_base(self, policy: Any) -> None:
        """Raises RolloutError for a server whose base says something else than the policy's with its adapters off."""
        ids = self._probe
        expected = base_logprobs(policy, ids)
        tolerance = TOLERANCE[coarser(self.dtype, str(policy.dtype).removeprefix("torch."))]
        for url in self.urls:
            async with ServerClient(url, self.timeout_seconds) as server:
                try:
                    said, root = await server.logprobs(self.base, ids), (await server.describe()).root
                except UnavailableError as error:
                    raise RolloutError(f"cannot use {url} ({error}): is the server running?") from None
            if not (gap := mean_difference(said, expected)) <= tolerance:
                raise RolloutError(
                    f"{url} serves another base than the policy's: {root} there, {self.model} here; the "
                    f"log-probabilities of {len(said)} tokens differ by {gap:.2g} nats on average (tolerance "
                    f"{tolerance:.2g}). Serve the policy's base; start the server again if another run gave it weights"
                )


def address(url: str) -> str:
    """Without the API's path. Raises RolloutError for what is none."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        known = False
    if not known:
        raise RolloutError(f"{url!r} is no server's address: write it as http://host:port")
    return url.rstrip("/").removesuffix("/v1")


def request(sampling: Sampling, stop_token_ids: list[int], seed: int) -> dict[str, Any]:
    """The settings of one request. What a server might have a taste of its own in is said, too."""
    return {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": seed,
        "stop_token_ids": stop_token_ids,
        "ignore_eos": True,  # of the model's config: the stop tokens are those that were given
    }


def require_fit(url: str, served: Description, adapter_rank: int | None) -> None:
    """Raises RolloutError for a server whose answers, or whose adapters, a trainer cannot use."""
    if served.logprobs_mode != "processed_logprobs":
        raise RolloutError(
            f"{url} gives {served.logprobs_mode}, not those of the distribution that is sampled: start it with {START}"
        )
    if adapter_rank is None:
        return
    if served.max_rank is None:
        raise RolloutError(
            f"{url} takes no LoRA adapters: start it with `align serve MODEL --for-training --lora-rank {adapter_rank}`"
        )
    if served.max_rank < adapter_rank:
        raise RolloutError(
            f"{url} takes adapters up to rank {served.max_rank}, not {adapter_rank}: start it with "
            f"`align serve MODEL --for-training --lora-rank {adapter_rank}`"
        )


async def require_vocabulary(server: ServerClient, served: Description, model: str, size: int) -> None:
    """Raises RolloutError for a server whose last token is not the policy's last."""
    if not await server.knows_token(served.base, size - 1):
        fault = "fewer tokens"
    elif await server.knows_token(served.base, size):
        fault = "more tokens"
    else:
        return
    raise RolloutError(
        f"{server.url} serves another vocabulary: {served.root} has {fault} than the {size} of {model}, the policy's "
        "base: serve that"
    )


def vocabulary_of(model: str) -> int:
    """How many tokens the model gives probabilities to."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(model).get_text_config().vocab_size)


def probe_ids(vocabulary: int) -> list[int]:
    """Tokens spread evenly over the vocabulary."""
    return [vocabulary * (2 * i + 1) // (2 * PROBED) for i in range(PROBED)]


@torch.no_grad()
def base_logprobs(policy: Any, ids: list[int]) -> list[float]:
    """Of each of `ids` but the first, by a PeftModel's base, in nats."""
    with evaluating(policy), policy.disable_adapter():
        inputs = torch.tensor([ids], device=policy.device)
        logprobs = policy(input_ids=inputs, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    return [float(x) for x in logprobs.gather(-1, inputs[0, 1:, None])[:, 0]]


def coarser(one: str, other: str) -> str:
    """Of two dtypes, the one that is further off."""
    return max(one, other, key=lambda dtype: TOLERANCE[dtype])
