"""A policy on its way to servers: written in a folder that they read, and the name by which they have it."""

from __future__ import annotations

import fcntl
import itertools
import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from rollout.errors import RolloutError
from rollout.server_client import ServerClient
from rollout.weights import has_adapters, is_four_bit, named_weights, write_adapter

MEMORY = Path("/dev/shm")  # noqa: S108 (a folder of our own is made in it)
PREFIX = "align-policy-"
STARTED_WITH = "default"  # what vLLM calls weights that nobody has changed


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter. A server answers with it to its name, so every answer shows which it was."""

    name: str
    folder: Path

    async def put_on(self, server: ServerClient) -> None:
        await server.load_adapter(self.name, self.folder)

    async def is_on(self, server: ServerClient) -> bool:
        return self.name in await server.models()

    async def take_off(self, server: ServerClient) -> None:
        await server.unload_adapter(self.name)


@dataclass(frozen=True)
class Weights:
    """Whole weights, in place of the base's. A server keeps their name, but its answers do not show it."""

    name: str
    folder: Path

    async def put_on(self, server: ServerClient) -> None:
        await server.load_weights(self.name, self.folder)

    async def is_on(self, server: ServerClient) -> bool:
        """False for a server that has been started again. Raises RolloutError if another run's are there."""
        there = await server.weights()
        if there not in (self.name, STARTED_WITH) and not same_run(there, self.name):
            raise RolloutError(
                f"{server.url} has the weights {there!r}, which are not this run's: give every run its own servers"
            )
        return there == self.name

    async def take_off(self, server: ServerClient) -> None:
        """They stay until others take their place."""


def same_run(one: str, other: str) -> bool:
    """Whether two names are of one run's policies."""
    return one.rpartition("-")[0] == other.rpartition("-")[0]


Part = Adapter | Weights


class Exchange:
    """The folder through which policies go to servers, in memory if the servers are on this machine."""

    def __init__(self, folder: Path | None, *, local: bool) -> None:
        """folder: one that the servers see by the same path, as they must where they are not on this machine."""
        parent = folder or (MEMORY if local and MEMORY.is_dir() else Path(tempfile.gettempdir()))
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(parent)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        self._lock = lock(self.folder)
        self._run = f"align-{uuid.uuid4().hex[:8]}"
        self._number = itertools.count(1)

    def write(self, policy: Any, dtype: str, *, with_base: bool) -> list[Part]:
        """The policy's adapter; or, of one without, its weights in `dtype`.

        with_base: a 4-bit base is written, too, as the weights that it stands for.
        """
        number = next(self._number)
        parts: list[Part] = []
        if not has_adapters(policy) or (with_base and is_four_bit(policy)):
            name = f"{self._run}-{number}"
            parts.append(Weights(name, self._in_one_go(name, lambda to: write_weights(policy, to, dtype))))
        if has_adapters(policy):
            name = f"{self._run}-adapter-{number}"
            parts.append(Adapter(name, self._in_one_go(name, lambda to: write_adapter(policy, to))))
        return parts

    def _in_one_go(self, name: str, write: Callable[[Path], None]) -> Path:
        """A folder that is there whole or not at all."""
        from safetensors import SafetensorError

        aside = self.folder / f"{name}.partial"
        try:
            write(aside)
            return aside.rename(self.folder / name)
        except (OSError, SafetensorError) as error:
            raise RolloutError(
                f"cannot write the policy for the servers: {error} (in {self.folder}; "
                "vllm.exchange names another folder)"
            ) from None

    def remove(self, parts: Sequence[Part]) -> None:
        for part in parts:
            shutil.rmtree(part.folder, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def write_weights(policy: Any, folder: Path, dtype: str) -> None:
    from safetensors.torch import save_file

    kind = getattr(torch, dtype)
    folder.mkdir(parents=True)
    weights = {name: weight.to("cpu", kind).contiguous() for name, weight in named_weights(policy)}
    save_file(weights, folder / "model.safetensors")


def lock(folder: Path, mode: str = "x") -> IO[str]:
    """Held as long as the file is open: no longer than this process lives."""
    file = (folder / "lock").open(mode)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def remove_abandoned(parent: Path) -> None:
    """Folders of processes that were killed: whole weights in memory are too much to leave there."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            held = lock(folder, "r")
        except OSError:  # in use, or another user's
            continue
        shutil.rmtree(folder, ignore_errors=True)
        held.close()
