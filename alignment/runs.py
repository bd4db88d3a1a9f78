"""The run folder: resolved config, metrics, summary, report, checkpoints and the model that came out."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from alignment.config import load_config, to_yaml
from alignment.console import note
from alignment.errors import AlignmentError, ConfigError
from alignment.files import write_json, write_text


class RunFolder:
    """`runs/NAME/`. Everything in it can be read by other tools.

    config.yaml    the resolved config
    metrics.jsonl  one row a logged step; holds nothing that differs between equal runs (no times)
    timings.jsonl  seconds by phase, kept apart for that reason
    summary.json   the figures a script would want
    model/         the trained model or adapter, with its tokenizer
    checkpoints/   enough to resume bit for bit
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        """writes: false for all but one of several processes that share the run; they can read and may call all."""
        self.path = path
        self.writes = writes
        self.model = path / "model"
        self.checkpoints = path / "checkpoints"
        self.report = path / "report.html"

    @classmethod
    def create(cls, path: Path, config: BaseModel, *, overwrite: bool = False) -> RunFolder:
        """A new run folder. Raises AlignmentError if one is there already and `overwrite` is off."""
        run = cls(path)
        if path.exists() and not is_blank(path):
            if not overwrite:
                raise AlignmentError(
                    f"run folder {path} already exists: choose another `run`, continue it with --resume "
                    "where the command has it, or replace it with --overwrite"
                )
            if not (path / "config.yaml").exists():
                raise AlignmentError(f"{path} is not a run folder (no config.yaml in it): not overwriting it")
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        write_text(path / "config.yaml", to_yaml(config))
        return run

    @classmethod
    def resume(cls, path: Path, config: BaseModel, *, may_change: Collection[str] = ()) -> RunFolder:
        """The run at `path`, to go on with; keys in `may_change` take their new value. A folder that was killed
        before it had its config is begun anew.

        Raises ConfigError where any other key differs: a resumed run must be the same run.
        """
        run = cls(path)
        if is_blank(path):
            return cls.create(path, config)
        if not (path / "config.yaml").exists():
            raise AlignmentError(f"{path} is not a run folder (no config.yaml in it): nothing to resume")
        changed = run.changed_keys(config)
        if other := [key for key in changed if key not in may_change]:
            raise ConfigError(
                f"--resume continues {path} as it was begun, but {', '.join(other)} changed: "
                "undo that, or choose another `run`"
            )
        if changed:
            write_text(path / "config.yaml", to_yaml(config))
        return run

    @classmethod
    def open(
        cls,
        path: Path,
        config: BaseModel,
        *,
        overwrite: bool = False,
        resume: bool = False,
        may_change: Collection[str] = (),
    ) -> RunFolder:
        """With `resume` the run at `path`, if there is one; else a new one."""
        if resume and path.exists():
            return cls.resume(path, config, may_change=may_change)
        return cls.create(path, config, overwrite=overwrite)

    def changed_keys(self, config: BaseModel) -> list[str]:
        """The top-level keys in which `config` differs from the one that the run was begun with."""
        before = load_config(type(config), self.path / "config.yaml").model_dump()
        return [key for key, value in config.model_dump().items() if value != before[key]]

    def log_rejects(self, rows: Iterable[dict[str, Any]], command: str, what: str) -> dict[str, int]:
        """Write what was left out, a row each with its `reason`, say so, and return the count by reason."""
        (self.path / "rejects.jsonl").unlink(missing_ok=True)  # of a run that is now resumed
        counts: Counter[str] = Counter()
        for row in rows:
            self.log(row, "rejects.jsonl")
            counts[row["reason"]] += 1
        for reason, count in counts.items():
            note(f"{command}: left out {count} {what}: {reason} (listed in {self.path}/rejects.jsonl)")
        return dict(counts)

    def log(self, row: dict[str, Any], file: str = "metrics.jsonl") -> None:
        if not self.writes:
            return
        with (self.path / file).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")

    def keep_rows(self, count: int, file: str = "metrics.jsonl") -> None:
        """Forget the rows after the first `count`: a resumed run writes them again."""
        if self.writes:
            write_text(self.path / file, "".join(line.decode() + "\n" for line in self.lines(file)[:count]))

    def rows(self, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines(file)]

    def lines(self, file: str) -> list[bytes]:
        """The whole lines of `file`: a last one without its end was torn by a kill or a full disk."""
        path = self.path / file
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []

    def summarize(self, figures: dict[str, Any]) -> None:
        if self.writes:
            write_json(self.path / "summary.json", figures)

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "summary.json").read_text(encoding="utf-8")))


def is_blank(path: Path) -> bool:
    """Whether nothing is in the folder but a config that a kill kept from its name."""
    return path.is_dir() and all(re.fullmatch(r"\.config\.yaml\..*\.tmp", p.name) for p in path.iterdir())
