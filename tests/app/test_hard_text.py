"""Hard text, imported as `align data import` does and seen in a browser: long, right to left, many turns."""

from __future__ import annotations

import json

import pytest

from labeling.importers.load import import_path

HEBREW = "שלום (hello), מה שלומך היום? 123."


@pytest.fixture
def show(make_site, open_page, tmp_path):
    """The annotator's page with the one row that was imported."""

    def show(prompt, chosen, rejected):
        site = make_site([])
        (tmp_path / "x.jsonl").write_text(
            json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}), encoding="utf-8"
        )
        assert import_path(site.store, tmp_path / "x.jsonl").counts["comparisons"] == 1
        page = open_page(site, site.person("mei"))
        page.locator("#submit").wait_for()
        return page

    return show


def test_an_answer_of_100_kilobytes(show):
    long = "\n\n".join(f"Paragraph {i}, which is **long** enough. " + "word " * 190 for i in range(100))
    assert len(long) > 95_000
    page = show("Write a lot.", long + "\n\nTHE END OF IT", "short")
    card = page.locator(".card", has_text="THE END OF IT")
    assert card.locator("strong").count() == 100
    assert card.locator("p").last.inner_text() == "THE END OF IT"
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.get_by_text("Saved").wait_for()


def test_a_dialogue_of_50_turns(show):
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"This is turn {i}."} for i in range(49)]
    page = show(turns, "The fiftieth.", "Another fiftieth.")
    shown = page.locator("#conversation .turn")
    assert shown.count() == 49
    assert shown.nth(0).inner_text().split("\n")[-1] == "This is turn 0."
    assert "This is turn 48." in shown.nth(48).inner_text()
    assert page.locator(".card", has_text="The fiftieth.").is_visible()


@pytest.mark.parametrize("form", ["{}", "- {}", "> {}", "## {}", "| {} |\n|---|\n| x |", "**{}**"])
def test_right_to_left_text_runs_right_to_left(show, form):
    """Its first letter stands at the right; so do the full stops that end it at the left."""
    page = show("Say hello.", form.format(HEBREW), "Hello there, in English.")
    edges = """text => {
        const walker = document.createTreeWalker(document.querySelector("#answers"), NodeFilter.SHOW_TEXT)
        while (walker.nextNode()) {
            const node = walker.currentNode, start = node.data.indexOf(text)
            if (start < 0) continue
            const at = place => {
                const range = document.createRange()
                range.setStart(node, start + place)
                range.setEnd(node, start + place + 1)
                return range.getBoundingClientRect().left
            }
            const style = getComputedStyle(node.parentElement.closest("p, li, th, td"))
            return [at(0), at(text.length - 1), style.unicodeBidi]
        }
    }"""
    first, last, bidi = page.evaluate(edges, HEBREW)
    assert first > last
    assert bidi == "plaintext"
    first, last, _ = page.evaluate(edges, "Hello there, in English.")
    assert first < last
