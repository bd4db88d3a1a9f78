"""The run folder: resolved config, metrics, summary, report, checkpoints and the model that came out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from alignment.config import to_yaml
from alignment.errors import AlignmentError
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

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model"
        self.checkpoints = path / "checkpoints"
        self.report = path / "report.html"

    @classmethod
    def create(cls, path: Path, config: BaseModel, *, overwrite: bool = False) -> RunFolder:
        """A new run folder. Raises AlignmentError if one is there already and `overwrite` is off."""
        run = cls(path)
        if path.exists() and any(path.iterdir()):
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

    def log(self, row: dict[str, Any], file: str = "metrics.jsonl") -> None:
        with (self.path / file).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")

    def keep_rows(self, count: int, file: str = "metrics.jsonl") -> None:
        """Forget the rows after the first `count`: a resumed run writes them again."""
        path = self.path / file
        rows = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        write_text(path, "".join(rows[:count]))

    def rows(self, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
        path = self.path / file
        return (
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            if path.exists()
            else []
        )

    def summarize(self, figures: dict[str, Any]) -> None:
        write_json(self.path / "summary.json", figures)

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "summary.json").read_text(encoding="utf-8")))
