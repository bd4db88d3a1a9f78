"""What an import says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ImportReport:
    """What an import found. rows = added + duplicate + rejected."""

    format: str
    why: str
    counts: dict[str, int]  # rows, added, duplicate, rejected; and what was added, by kind
    reasons: dict[str, int]  # of the rejected rows
    rejects_path: Path | None  # JSON lines {row, reason, raw}; None if nothing was rejected
    not_kept: list[str]  # columns that mean nothing here and hold more than plain values

    def as_dict(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "why": self.why,
            **self.counts,
            "reasons": self.reasons,
            "rejects_path": str(self.rejects_path) if self.rejects_path else None,
            "not_kept": self.not_kept,
        }

    def as_text(self) -> str:
        c = self.counts
        made = ", ".join(f"{count} {name}" for name, count in list(c.items())[4:])
        lines = [
            f"format {self.format}: {self.why}",
            f"{c['rows']} rows: {c['added']} added{f' ({made})' if made else ''}, "
            f"{c['duplicate']} there already, {c['rejected']} rejected",
        ]
        lines += [f"  {count} rejected: {reason}" for reason, count in self.reasons.items()]
        if self.rejects_path:
            lines.append(f"rejected rows are in {self.rejects_path}")
        if self.not_kept:
            lines.append(f"columns not kept: {', '.join(self.not_kept)}")
        return "\n".join(lines)
