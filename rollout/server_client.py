"""One vLLM server over HTTP: what it serves, what it answers, and the weights that it is told to load."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.endpoint import is_loopback
from rollout.errors import RolloutError
from rollout.types import FinishReason

CONNECT_SECONDS = 10.0
LOOK_SECONDS = 10.0  # for a reply that takes no work
ACCOUNT_SECONDS = 120.0  # for vLLM's first account of itself, which looks over the whole machine
CLAMPED = -9999.0  # what vLLM writes for a log-probability of -inf
KEPT_SECONDS = 2.0
NOT_FOUND = 404
FINAL = "Worker failed with error"  # in a 500: it would fail again
START = "`align serve MODEL --for-training`"


class UnavailableError(Exception):
    """No answer, or one that says "not now": another server may do, or this one after a while."""


@dataclass(frozen=True)
class Description:
    """What a server serves.

    base: the name by which its base is asked for; root: the hub id or folder that it was loaded from.
    context: most tokens of prompt and answer together. max_rank: of LoRA adapters; None if it takes none.
    """

    base: str
    root: str
    context: int
    dtype: str
    max_rank: int | None
    logprobs_mode: str


@dataclass(frozen=True)
class Reply:
    """One answer, and which model gave it; logprobs in nats, one for each token."""

    model: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


class ServerClient:
    """Open it with `async with`. Every call raises UnavailableError, or RolloutError in the server's own words."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.url = url
        self.timeout_seconds = timeout_seconds

    async def __aenter__(self) -> ServerClient:
        import httpx2

        self._http = httpx2.AsyncClient(
            base_url=self.url,
            # a connection is let go of before the server does so, which it does after 5 s
            limits=httpx2.Limits(
                max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEPT_SECONDS
            ),
            trust_env=not is_loopback(self.url),  # no proxy leads to this machine
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def describe(self) -> Description:
        """Raises RolloutError for a server that a trainer cannot use."""
        try:
            cards = (await self._get("/v1/models"))["data"]
            base = next(card for card in cards if not card.get("parent"))
            context = int(base["max_model_len"])
            info = (await self._get("/server_info?config_format=json", ACCOUNT_SECONDS))["vllm_config"]
            model, lora = info["model_config"], info.get("lora_config")
            return Description(
                base=base["id"],
                root=base["root"],
                context=context,
                dtype=str(model["dtype"]).removeprefix("torch."),
                max_rank=int(lora["max_lora_rank"]) if lora else None,
                logprobs_mode=model["logprobs_mode"],
            )
        except (KeyError, TypeError, AttributeError, ValueError, StopIteration):
            raise RolloutError(
                f"{self.url} is no vLLM server for generation: start one with {START}"
            ) from None

    async def complete(self, model: str, prompt: list[int], settings: dict[str, Any]) -> Reply:
        body = {
            "model": model,
            "prompt": prompt,
            "logprobs": 0,  # the sampled token's alone
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,  # and nothing is decoded for the log-probabilities
            **settings,
        }
        return read_reply(await self._post("/v1/completions", body), self.url)

    async def logprobs(self, model: str, ids: list[int]) -> list[float]:
        """Of each of `ids` but the first, given those before it, in nats."""
        settings = {"max_tokens": 1, "temperature": 1.0, "logprobs": 0, "echo": True}
        reply = await self._post("/v1/completions", {"model": model, "prompt": ids, **settings})
        return list(reply["choices"][0]["logprobs"]["token_logprobs"][1 : len(ids)])

    async def knows_token(self, model: str, token: int) -> bool:
        """Whether `token` is in the vocabulary."""
        try:
            await self._post("/v1/completions", {"model": model, "prompt": [token], "max_tokens": 1})
        except RolloutError as error:
            if "out of vocabulary" in str(error):
                return False
            raise
        return True

    async def models(self) -> set[str]:
        """The names that it answers to: its base's, and those of the adapters that it has."""
        return {card["id"] for card in (await self._get("/v1/models"))["data"]}

    async def load_adapter(self, name: str, folder: Path) -> None:
        await self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    async def unload_adapter(self, name: str) -> None:
        await self._post("/v1/unload_lora_adapter", {"lora_name": name}, LOOK_SECONDS)

    async def load_weights(self, name: str, folder: Path) -> None:
        """Whole weights in place, from the safetensors in `folder`; they are version `name` from then on."""
        kwargs = {"weights_path": str(folder)}
        await self._post("/collective_rpc", {"method": "reload_weights", "kwargs": kwargs})
        forgotten = await self._post("/reset_prefix_cache", {})  # keys and values of the weights before
        if not forgotten["success"]:
            raise RolloutError(
                f"{self.url} has other requests under way and cannot take new weights: give the trainer servers of "
                "its own"
            )
        await self._post("/update_weight_version", {"new_version": name})

    async def weights(self) -> str:
        """The name of the weights in place: "default" are those that it was started with."""
        return str((await self._get("/weight_info"))["weight_version"])

    async def _get(self, path: str, seconds: float = LOOK_SECONDS) -> Any:
        return await self._ask("GET", path, timeout=seconds)

    async def _post(self, path: str, body: dict[str, Any], seconds: float | None = None) -> Any:
        return await self._ask("POST", path, json=body, timeout=seconds or self.timeout_seconds)

    async def _ask(self, method: str, path: str, *, timeout: float, **options: Any) -> Any:
        import httpx2

        limits = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS))
        try:
            response = await self._http.request(method, path, timeout=limits, **options)
        except httpx2.TimeoutException as error:
            what = "no connection" if isinstance(error, httpx2.ConnectTimeout) else "no reply"
            raise UnavailableError(f"{what} in time ({type(error).__name__})") from None
        except httpx2.TransportError as error:
            raise UnavailableError(
                f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            ) from None
        if response.is_success:
            return as_json(response.text)
        raise refusal(self.url, path.partition("?")[0], response.status_code, own_words(response.text))


def refusal(url: str, path: str, status: int, words: str) -> Exception:
    """What a status other than 200 means: ask elsewhere or later, or give up."""
    said = f"{status}: {words}"
    if status == NOT_FOUND and words == "Not Found":
        return RolloutError(f"{url} has no {path}: it takes a vLLM started by {START}")
    # an adapter that was there has been lost by a server that was started again
    passing = status in (NOT_FOUND, 408, 429) or (status >= 500 and FINAL not in words)
    return UnavailableError(said) if passing else RolloutError(f"{url} refuses {path} ({said})")


def as_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def own_words(text: str) -> str:
    """The error in a reply, in one line."""
    body = as_json(text)
    error = body.get("error", body.get("detail", text)) if isinstance(body, dict) else text
    words = error.get("message", text) if isinstance(error, dict) else error
    return " ".join(str(words).split())[:300]


def read_reply(body: Any, url: str) -> Reply:
    """Raises UnavailableError for what is no whole answer, RolloutError for log-probabilities that are no numbers."""
    try:
        choice = body["choices"][0]
        tokens, logprobs = tuple(choice["token_ids"]), tuple(map(float, choice["logprobs"]["token_logprobs"]))
        reason, model = choice["finish_reason"], body["model"]
    except (KeyError, TypeError, IndexError, ValueError):
        raise UnavailableError(f"a reply that is no completion with token ids: {str(body)[:80]!r}") from None
    whole = tokens and len(tokens) == len(logprobs) and all(type(token) is int for token in tokens)
    if reason not in ("stop", "length") or not whole:
        raise UnavailableError(f"an answer that was broken off ({reason})")
    if not all(math.isfinite(logprob) and logprob > CLAMPED for logprob in logprobs):
        raise RolloutError(
            f"the policy's logits are not finite, says {url}: its weights are broken (did training diverge?)"
        )
    return Reply(model, tokens, logprobs, reason)
