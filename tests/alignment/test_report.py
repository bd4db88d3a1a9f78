"""The report page is one file that shows hostile text as text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from alignment import plots
from alignment.report import (
    Answer,
    Examples,
    Facts,
    Plots,
    Table,
    Tile,
    Tiles,
    number,
    percent,
    versions,
    write_report,
)

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">"\'</pre></section>{{ 7*7 }}<!--'


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(tmp_path: Path) -> str:
    path = tmp_path / "report.html"
    curve = plots.lines({HOSTILE: ([1, 2], [3, 4]), "b": ([1, 2], [4, 3])}, HOSTILE)
    sections = [
        Tiles([Tile(HOSTILE, HOSTILE, HOSTILE, 7), Tile("plain", "1")]),
        Table(HOSTILE, [HOSTILE, "b"], [[HOSTILE, "2"]], HOSTILE),
        Plots(HOSTILE, [(HOSTILE, curve), ("bars", plots.bars({HOSTILE: 0.4}, {HOSTILE: (0.3, 0.5)}))]),
        Examples(
            HOSTILE, [(HOSTILE, [Answer(HOSTILE, HOSTILE, HOSTILE, good) for good in (True, False, None)])]
        ),
        Facts(HOSTILE, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}, HOSTILE),
    ]
    write_report(path, HOSTILE, HOSTILE, sections)
    return path.read_text(encoding="utf-8")


def test_what_models_say_is_shown_not_run(page: str) -> None:
    elements = Elements()
    elements.feed(page)
    assert not {"script", "img", "iframe", "link"} & set(elements.tags)
    assert not [name for name, _ in elements.attributes if name.startswith("on")]
    assert HOSTILE in elements.text
    assert "49" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_nothing_is_fetched_from_anywhere(page: str) -> None:
    elements = Elements()
    elements.feed(page)
    links = [value for name, value in elements.attributes if name in ("src", "href", "xlink:href") and value]
    assert all(link.startswith("#") for link in links)
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)", page)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in elements.attributes


def test_light_and_dark_are_both_there(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert plots.INK not in page  # every drawn line follows the page's colour
    assert "currentColor" in page


def test_plots_are_whole_svg_and_the_same_each_time() -> None:
    def draw() -> str:
        return plots.trade_off(
            {"base": (0, 0.2), "ppo": (3, 0.9)}, {"ppo": (0.8, 0.95)}, "KL", as_percent=True
        )

    assert ET.fromstring(draw()).tag.endswith("svg")
    assert draw() == draw()


def test_series_have_one_colour_in_plots_and_page(page: str) -> None:
    for series, color in enumerate(plots.COLORS):
        assert f"--series-{series}: {color}" in page


def test_figures_are_written_for_people() -> None:
    assert [number(v) for v in (None, 0.12345, 12345.6, 3, True, "x")] == [
        "–",
        "0.123",
        "12,346",
        "3",
        "True",
        "x",
    ]
    assert (percent(0.4567), percent(None)) == ("45.7%", "–")
    assert {"python", "torch"} <= versions().keys()
