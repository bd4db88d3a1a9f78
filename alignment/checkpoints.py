"""Checkpoints that are whole or not there at all, and hold no code: safetensors for tensors, JSON for the rest."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from alignment.errors import AlignmentError
from alignment.files import whole_folder

State = dict[str, Any]  # nested dicts and lists of tensors and JSON values


def save_checkpoint(folder: Path, step: int, state: State, *, keep: int) -> Path:
    """Write `state` as folder/step-N, then remove all but the newest `keep`.

    Raises AlignmentError (a full disk, say) with the earlier checkpoints untouched.
    """
    target = folder / f"step-{step:06d}"
    with whole_folder(target) as aside:
        tensors: dict[str, Tensor] = {}
        plain = _take_tensors(state, tensors, "")
        save_file(tensors, aside / "tensors.safetensors")
        (aside / "state.json").write_text(json.dumps(plain), encoding="utf-8")
    for old in saved_steps(folder)[:-keep]:
        shutil.rmtree(folder / f"step-{old:06d}")
    return target


def load_checkpoint(folder: Path) -> State | None:
    """The newest checkpoint in `folder`, or None if there is none."""
    steps = saved_steps(folder)
    if not steps:
        return None
    path = folder / f"step-{steps[-1]:06d}"
    try:
        tensors = load_file(path / "tensors.safetensors")
        plain = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except Exception as error:
        raise AlignmentError(
            f"checkpoint {path} cannot be read ({error}): remove that folder to use the one before"
        ) from error
    return _put_tensors(plain, tensors)


def saved_steps(folder: Path) -> list[int]:
    """The steps that have a whole checkpoint, ascending."""
    found = [re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*")]
    return sorted(int(match[1]) for match in found if match)


def random_state() -> State:
    """Every global generator: Python's, NumPy's, torch's on the CPU and on each GPU."""
    import random

    import numpy

    name, keys, *rest = cast(tuple[Any, ...], numpy.random.get_state(legacy=True))
    version, internal, gauss = random.getstate()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype("int64")), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: State) -> None:
    import random

    import numpy

    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def _take_tensors(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    """`value` as JSON can hold it: each tensor is moved into `tensors`, with a reference in its place."""
    if isinstance(value, Tensor):
        while place in tensors:  # a key with a slash in it
            place += "'"
        tensors[place] = value.detach().cpu().contiguous().clone()
        return {"__tensor__": place}
    if isinstance(value, dict):
        return {_to_text(k): _take_tensors(v, tensors, f"{place}/{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_take_tensors(v, tensors, f"{place}/{i}") for i, v in enumerate(value)]
    return value


def _put_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"__tensor__"}:
            return tensors[value["__tensor__"]]
        return {_from_text(k): _put_tensors(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [_put_tensors(v, tensors) for v in value]
    return value


def _to_text(key: str | int) -> str:
    """Optimizer states are keyed by integers, which JSON would turn into text: they are marked with #."""
    return f"#{key}" if isinstance(key, int) or key.startswith("#") else key


def _from_text(key: str) -> str | int:
    if not key.startswith("#"):
        return key
    return key[1:] if key.startswith("##") else int(key[1:])
