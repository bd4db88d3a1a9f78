"""`align serve`: a vLLM OpenAI-compatible server for a base, policies on it, or a reward model."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.console import note, notes, output
from alignment.errors import AlignmentError, ConfigError
from alignment.models import base_of, is_adapter, resolve
from alignment.server_process import ServerProcess
from alignment.vllm_command import (
    Served,
    remedy,
    server_command,
    server_environment,
    server_module,
    settings,
)

START_SECONDS = 1800.0  # a large model may first have to be fetched
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    model: str,
    adapters: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_model_len: int | None = None,
    api_key_env: str | None = None,
    training_rank: int | None = None,
    allow_remote: bool = False,
    extra: Sequence[str] = (),
) -> None:
    """Start the server, wait until it is ready, say how to call it, and end it on Ctrl-C, SIGTERM or SIGHUP.

    training_rank: lets `align ppo` change the policy, see `Served`; on this machine only, unless `allow_remote`.
    Raises AlignmentError for what cannot be served, a port in use, or a server that dies, in its own words.
    """
    trains = training_rank is not None
    served = what_to_serve(model, adapters)
    if trains:
        served = for_training(served, training_rank, host, allow_remote)
    entry = server_module()
    refuse_taken(host, port)
    environment = server_environment(api_key_env, for_training=trains)
    log = Path(tempfile.mkstemp(prefix="align-serve-", suffix=".log")[1])
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104 (only compared)
    if host not in LOOPBACK and api_key_env is None:
        note(
            f"serve: anyone who reaches {host}:{port} can use it: set --api-key-env, or put a proxy in front"
        )
    with interrupts(), as_whole_model(served) as whole:
        command = server_command(whole, entry, host=host, port=port, max_model_len=max_model_len, extra=extra)
        try:
            with ServerProcess(command, environment, log) as server:
                with notes.status("starting vLLM") as status:
                    server.wait_until_ready(
                        f"{url}/health",
                        START_SECONDS,
                        lambda line: status.update(f"starting vLLM: {line[:100]}"),
                    )
                output.print(how_to_call(whole, url, api_key_env), markup=False, soft_wrap=True)
                note(f"serve: ready; its log is {log}; Ctrl-C stops it")
                server.wait()
        except KeyboardInterrupt:
            note("serve: stopped")
        except AlignmentError as error:
            raise AlignmentError(f"{error}{remedy(str(error))}") from None


def what_to_serve(model: str, adapters: Sequence[str] = ()) -> Served:
    """Raises ConfigError for an adapter not given as NAME=PATH, AlignmentError for one that is of another base."""
    path = resolve(model)
    if is_reward(path):
        if adapters:
            raise ConfigError(f"{model} is a reward model: adapters go on a policy's base")
        return Served(path, model, is_reward=True)
    named = dict([named_adapter(one) for one in adapters])
    if len(named) < len(adapters):
        raise ConfigError("two adapters have the same name")
    base = base_of(path)
    if is_adapter(path):
        named = {model: path} | named
    name = base if is_adapter(path) else model
    for adapter, folder in named.items():
        if is_reward(folder):
            raise AlignmentError(
                f"adapter {adapter} is a reward model's: serve it by itself, `align serve {folder}`"
            )
        if not same_model(base_of(folder), base):
            raise AlignmentError(f"adapter {adapter} ({folder}) is for {base_of(folder)}, not for {base}")
    if name in named:
        raise ConfigError(f"the adapter {name} has the name of its base: call it something else")
    return Served(resolve(base), name, named)


def for_training(served: Served, rank: int | None, host: str, allow_remote: bool) -> Served:
    """`served` with a trainer at the controls. Raises ConfigError for a reward model, or where others reach them."""
    if served.is_reward:
        raise ConfigError(f"{served.name} is a reward model: --for-training is for the policy's base")
    if host not in LOOPBACK and not allow_remote:
        raise ConfigError(
            f"--for-training gives whoever reaches {host} full control of the server, key or no key: leave --host at "
            "127.0.0.1, or add --allow-remote where only your trainer reaches it (a private network, a firewall)"
        )
    return replace(served, training_rank=rank)


def named_adapter(given: str) -> tuple[str, str]:
    name, equals, path = given.partition("=")
    if not (name and equals and path):
        raise ConfigError(f"--adapter {given!r}: write it as NAME=PATH")
    folder = resolve(path)
    if not is_adapter(folder):
        raise AlignmentError(
            f"{path} is not an adapter (no adapter_config.json in it): serve it as the model"
        )
    return name, folder


def is_reward(path: str) -> bool:
    """Whether the folder holds a reward model, whole or as an adapter. Hub ids are taken for policies."""
    config = settings(path, "config.json").get("architectures") or []
    return any("SequenceClassification" in kind for kind in config) or (
        settings(path, "adapter_config.json").get("task_type") == "SEQ_CLS"
    )


def same_model(a: str, b: str) -> bool:
    return a == b or (Path(a).exists() and Path(b).exists() and Path(a).samefile(b))


def refuse_taken(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise AlignmentError(
                f"cannot listen at {host}:{port} ({error.strerror}): choose another --port"
            ) from None


@contextmanager
def as_whole_model(served: Served) -> Iterator[Served]:
    """`served`; a reward model that is an adapter is merged first, in a folder that goes away with the server."""
    if not (served.is_reward and is_adapter(served.model)):
        yield served
        return
    from transformers import AutoTokenizer

    from alignment.models import torch_dtype
    from reward.model import load

    with tempfile.TemporaryDirectory(prefix="align-serve-") as folder:
        note(f"serve: merging the adapter {served.model} into its base")
        model: Any = load(served.model, dtype=torch_dtype("auto"))
        model.merge_and_unload().save_pretrained(folder)
        AutoTokenizer.from_pretrained(served.model).save_pretrained(folder)
        yield Served(folder, served.name, is_reward=True)


@contextmanager
def interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def how_to_call(served: Served, url: str, api_key_env: str | None) -> str:
    """Lines to copy: curl, and the commands here that take an endpoint."""
    key = f' -H "Authorization: Bearer ${api_key_env}"' if api_key_env else ""
    question = [{"role": "user", "content": "Where is the river inn?"}]
    if served.is_reward:
        body: dict[str, Any] = {
            "model": served.name,
            "messages": [*question, {"role": "assistant", "content": "Near the bridge."}],
            "add_generation_prompt": False,
            "use_activation": False,
        }
        return f"the score of an answer is `probs` in the reply:\n  {curl(f'{url}/classify', key, body)}"
    name, api = served.shown, shlex.quote(f"{url}/v1")
    key_line = f" api_key_env={api_key_env}" if api_key_env else ""
    lines = [
        curl(f"{url}/v1/chat/completions", key, {"model": name, "messages": question}),
        f"align judge run base_url={api} model={shlex.quote(name)}{key_line}",
        f"align rollout engine=openai policy.path={shlex.quote(name)} endpoint.base_url={api}"
        f"{key_line.replace(' ', ' endpoint.')} run=runs/rollout prompts=prompts.jsonl",
        f"align label --endpoint {api} --model {shlex.quote(name)}",
    ]
    if served.training_rank is not None:
        method = "" if served.training_rank else " tuning.method=full"
        lines.append(
            f"align ppo -c configs/ppo.yaml policy.path={shlex.quote(name)}{method} engine=vllm-server "
            f"{shlex.quote(f'vllm.urls=[{url}]')}"
        )
    names = ", ".join([served.name, *served.adapters])
    return f"{names} at {url}/v1:\n" + "\n".join(f"  {line}" for line in lines)


def curl(url: str, key: str, body: dict[str, Any]) -> str:
    return f"curl {url} -H 'Content-Type: application/json'{key} -d {shlex.quote(json.dumps(body))}"
