"""One self-contained HTML page: a list of sections in, `report.html` out. No script, no external resource.

Every text is escaped by the template: model output is hostile. Plots are the one exception; they come as SVG
from `alignment.plots`, which escapes its own labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from alignment.files import write_text

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


@dataclass(frozen=True)
class Tile:
    """One large figure. `series` (0, 1, ...) gives it the colour that the plots use."""

    label: str
    value: str
    detail: str = ""
    series: int | None = None


@dataclass(frozen=True)
class Tiles:
    """The headline: a few large figures side by side."""

    tiles: Sequence[Tile]
    title: str = ""
    note: str = ""
    kind: ClassVar[str] = "tiles"


@dataclass(frozen=True)
class Table:
    """Rows under column names; numbers should come formatted. The first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Plots:
    """Plots side by side, each a caption and an SVG from `alignment.plots`."""

    title: str
    plots: Sequence[tuple[str, str]]
    note: str = ""
    kind: ClassVar[str] = "plots"


@dataclass(frozen=True)
class Answer:
    """One answer to an example prompt; `good` colours its verdict, None leaves it plain."""

    name: str
    text: str
    verdict: str = ""
    good: bool | None = None


@dataclass(frozen=True)
class Examples:
    """Prompts with the answers of several policies side by side."""

    title: str
    examples: Sequence[tuple[str, Sequence[Answer]]]
    note: str = ""
    kind: ClassVar[str] = "examples"


@dataclass(frozen=True)
class Facts:
    """Names and values; `blocks` are longer texts (a config) folded away until asked for."""

    title: str
    facts: Mapping[str, str]
    blocks: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    kind: ClassVar[str] = "facts"


Section = Tiles | Table | Plots | Examples | Facts


def write_report(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Render `sections` in order under `title` and a sentence or two of `lead`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("alignment", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(title=title, lead=lead, sections=sections)
    write_text(path, page)


def versions() -> dict[str, str]:
    """The library versions a result depends on."""
    import platform

    found = {"python": platform.python_version()}
    for library in ("align", *LIBRARIES):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def number(value: Any, digits: int = 3) -> str:
    """A figure for people: no trailing noise, thousands apart, a dash for what was not measured."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"
