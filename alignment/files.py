"""Writing so that a kill or a full disk never leaves half a thing: aside first, then rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from alignment.errors import AlignmentError


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise AlignmentError(
            f"cannot write {path}: {error.strerror}; free some space or choose another place"
        ) from error


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a folder aside to fill; it becomes `path` only when the block ends without an error.

    A folder already at `path` is replaced at that moment. Leftovers of killed runs are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.mkdir()
    try:
        yield aside
        for file in sorted(aside.rglob("*")):
            sync_to_disk(file)
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
            os.replace(path, old)
            os.replace(aside, path)
            shutil.rmtree(old)
        else:
            os.replace(aside, path)
        sync_to_disk(path.parent)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        shutil.rmtree(aside, ignore_errors=True)
        raise AlignmentError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}; what was there before is untouched. "
            "Free some space or choose another place"
        ) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def sync_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
