"""The annotator's page in a real browser: the keyboard, undo, reload, two people, languages, small screens."""

from __future__ import annotations

import time

import pytest
from axe_playwright_python.sync_playwright import Axe

from labeling.queue.settings import QueueSettings, save_settings
from labeling.schema import Assignment, Flag, Judgement
from tests.app.conftest import SLOW_FRAME
from tests.app.site import comparison

READY = "#card-A .message"


def texts_of(page) -> list[str]:
    return [page.inner_text(f"#card-{letter} .message") for letter in "AB"]


def press_and_wait(page, *keys: str) -> None:
    """Press keys; the last brings another item, of which both texts are other ones, or none."""
    before = [page.input_value("#token textarea"), *texts_of(page)]
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_function(
        """before => {
            const texts = ["A", "B"].map((letter) => document.querySelector(`#card-${letter} .message`)?.innerText);
            const [token, ...others] = [document.querySelector("#token textarea").value, ...texts];
            return token !== before[0] && (!token || others.every((text, place) => text !== before[place + 1]));
        }""",
        arg=before,
    )


def numbered(count: int) -> list:
    return [comparison(f"Question {n}", f"first answer {n}", f"second answer {n}") for n in range(count)]


def test_ten_items_by_keyboard_alone(make_site, open_page):
    site = make_site(numbered(10))
    mei = site.person("mei")
    page = open_page(site, mei)
    page.wait_for_selector(READY)
    shown = []
    for keys in (["1"], ["2"], ["3"], ["4"], ["5"], ["6"], ["7"], ["b"], ["ArrowLeft"], ["ArrowRight"] * 2):
        shown.append(texts_of(page))
        press_and_wait(page, *keys, "Enter")
    page.wait_for_selector("#work", state="hidden")
    assert "nothing left" in page.inner_text("#notice")
    labels = sorted(site.labels(), key=lambda label: label.id)
    assert [label.verdict for label in labels] == [
        *["preference"] * 3, "tie", *["preference"] * 3, "both_bad", "preference", "preference"
    ]  # fmt: skip
    assert [label.strength for label in labels] == [3, 2, 1, 0, 1, 2, 3, 0, 1, 2]
    sides = [("A", 0), ("A", 0), ("A", 0), None, ("B", 1), ("B", 1), ("B", 1), None, ("A", 0), ("B", 1)]
    for label, texts, side in zip(labels, shown, sides, strict=True):
        if side:  # the text that was preferred on the page is the one that the label prefers in the store
            preferred = texts[side[1]]
            assert preferred.startswith("first" if label.p_first == 1.0 else "second")
        assert label.seconds is not None
        assert 0 <= label.seconds < 60
    assert {tuple(label.shown_order) for label in labels} == {(0, 1), (1, 0)}


def test_undo_supersedes_and_reload_keeps_the_item(make_site, open_page):
    site = make_site(numbered(3))
    page = open_page(site, site.person("mei"))
    page.wait_for_selector(READY)
    first = texts_of(page)
    press_and_wait(page, "1", "Enter")
    second = texts_of(page)
    page.reload()
    page.wait_for_selector(READY)
    assert texts_of(page) == second
    press_and_wait(page, "u")
    assert texts_of(page) == first
    press_and_wait(page, "7", "Enter")
    assert texts_of(page) == second
    [label] = site.labels()
    assert label.verdict == "preference"
    assert first[1].startswith("first" if label.p_first == 1.0 else "second")
    assert site.store.counts()["labels"] == 1


def test_what_is_missing_is_said_and_nothing_is_lost(make_site, open_page):
    site = make_site(numbered(1))
    save_settings(site.store, QueueSettings(rationale_below=1, aspects=["helpful", "honest"]))
    page = open_page(site, site.person("mei"))
    page.wait_for_selector(READY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice .wrong")
    assert "scale" in page.inner_text("#notice")
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice :text('why')")
    page.keyboard.press("w")
    page.keyboard.type("7 is right, u see?")  # keys are text in a field
    for label, grade in (("helpful: A", 2), ("helpful: B", 5)):
        page.get_by_role("group", name=label).get_by_label(str(grade)).check()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#work", state="hidden")
    [label] = site.labels()
    assert (label.strength, label.rationale) == (1, "7 is right, u see?")
    grades = label.meta["aspects"]
    assert list(grades) == ["helpful"]  # honest was not given
    assert [grades["helpful"][position] for position in label.shown_order] == [2, 5]


def test_skip_needs_a_reason_and_flag_keeps_the_item(make_site, open_page):
    site = make_site(numbered(2))
    page = open_page(site, site.person("mei"))
    page.wait_for_selector(READY)
    first = texts_of(page)
    page.keyboard.press("f")
    page.wait_for_selector("#flag textarea:focus")
    page.keyboard.type("the answers are cut off")
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice .said")
    assert texts_of(page) == first
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    page.wait_for_selector("#skip input:focus")
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice .wrong")
    page.keyboard.press("Space")
    press_and_wait(page, "Enter")
    assert texts_of(page) != first
    with site.store.begin() as session:
        flags = session.query(Flag).all()
        skipped = session.query(Assignment).filter_by(state="skipped").all()
        assert [flag.reason for flag in flags] == ["the answers are cut off"]
        assert [one.reason for one in skipped] == ["cannot judge"]
    assert site.labels() == []


def test_nothing_typed_into_a_drawer_is_lost_where_frames_are_slow(make_site, open_page):
    site = make_site(numbered(1))
    page = open_page(site, site.person("mei"), slow_frames=True)
    page.wait_for_selector(READY)
    page.keyboard.press("f")
    page.wait_for_selector("#flag textarea:focus")
    page.keyboard.type("cut off")
    page.wait_for_timeout(2 * SLOW_FRAME)  # milliseconds
    assert page.input_value("#flag textarea") == "cut off"


def test_ranking_by_keyboard(make_site, open_page):
    site = make_site([comparison("Name a river", "the Oder", "the Po", "the Ebro", "the Tay")])
    page = open_page(site, site.person("mei"))
    page.wait_for_selector("#card-D .message")
    shown = [page.inner_text(f"#card-{letter} .message") for letter in "ABCD"]
    assert not page.is_visible("#scale")
    page.wait_for_selector("#card-A.marked")
    for key in ("2", "1", "2", "ArrowLeft", "3", "4", "Enter"):  # C is corrected from 2 to 3
        page.keyboard.press(key)
    page.wait_for_selector("#work", state="hidden")
    [label] = site.labels()
    assert label.verdict == "ranking"
    given = dict(zip(shown, [2, 1, 3, 4], strict=True))
    assert label.meta["ranks"] == [given[text] for text in ("the Oder", "the Po", "the Ebro", "the Tay")]


def test_two_people_see_other_sides_and_never_more_than_the_overlap(make_site, open_page):
    site = make_site(numbered(6))
    save_settings(site.store, QueueSettings(overlap=2))
    orders = {}
    for name in ("mei", "jan"):
        page = open_page(site, site.person(name))
        page.wait_for_selector(READY)
        for _ in range(6):
            press_and_wait(page, "1", "Enter")
        page.wait_for_selector("#work", state="hidden")
        orders[name] = {
            label.comparison_id: label.shown_order for label in site.labels() if label.annotator == name
        }
    assert len(orders["mei"]) == len(orders["jan"]) == 6
    assert orders["mei"] != orders["jan"]
    page = open_page(site, site.person("ada"))
    page.wait_for_selector("#notice .said")
    assert not page.is_visible("#work")
    assert len(site.labels()) == 12


def test_the_page_names_no_model_and_no_order(make_site, open_page):
    site = make_site(numbered(3))
    page = open_page(site, site.person("mei"), path="/login")
    seen = []
    page.on("response", lambda answer: seen.append(answer))  # noqa: PLW0108
    page.goto(site.url + "/label")
    page.wait_for_selector(READY)
    press_and_wait(page, "2", "Enter")
    bodies = [
        answer.text()
        for answer in seen
        if answer.ok and "/label/" in answer.url and "/assets/" not in answer.url
    ]
    assert any("first answer" in body for body in bodies)  # the traffic with the items is among them
    for word in ("secret-model", "shown_order", "comparison_id", '"gold"', "ai-shown"):
        assert not any(word in body for body in bodies), word


def test_a_page_left_open_outlives_the_server(make_site, open_page):
    site = make_site(numbered(2))
    page = open_page(site, site.person("mei"))
    page.wait_for_selector(READY)
    page.keyboard.press("6")
    site.stop()
    page.keyboard.press("Enter")
    page.wait_for_selector("#banner:not([hidden])")
    site.start()  # what was asked meanwhile is asked again
    page.wait_for_selector("#notice .said")
    assert [label.strength for label in site.labels()] == [2]
    assert page.is_hidden("#banner")
    page.problems[:] = [said for said in page.problems if "Failed to load resource" not in said]


def test_chinese_dark_and_remembered(make_site, open_page):
    site = make_site(numbered(1))
    mei = site.person("mei")
    page = open_page(site, mei)
    page.wait_for_selector(READY)
    assert "light" in page.evaluate("getComputedStyle(document.body).colorScheme")
    page.get_by_role("button", name="中文").click()
    page.wait_for_selector(READY)
    assert "哪个回答更好" in page.inner_text("#work")
    assert page.get_attribute("html", "lang") == "zh-CN"
    for theme in ("浅色", "深色"):
        page.get_by_role("button", name="主题").click()
        page.wait_for_selector(f"text=主题: {theme}")
    page.wait_for_selector(READY)
    assert "dark" in page.evaluate("getComputedStyle(document.body).colorScheme")
    again = open_page(site, mei)
    again.wait_for_selector(READY)
    assert "提交" in again.inner_text("#submit")
    assert "dark" in again.evaluate("getComputedStyle(document.body).colorScheme")


WIDE = "| a | b | c | d | e | f |\n|---|---|---|---|---|---|\n| " + " | ".join(["wideword" * 4] * 6) + " |"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits_and_is_accessible(make_site, open_page, width, theme):
    code = "```python\n" + "x = " + "1 + " * 60 + "1\n```"
    site = make_site(
        [comparison("Is $a^2$ a [link](http://x.y)?", f"# Yes\n\n{code}", f"No. {'w' * 300}\n\n{WIDE}")]
    )
    save_settings(site.store, QueueSettings(aspects=["helpful"], guidelines="# Read *this*"))
    page = open_page(site, site.person("mei", theme=theme), viewport={"width": width, "height": 844})
    page.wait_for_selector(READY)
    page.keyboard.press("3")
    for drawer in ("?", "g"):
        page.keyboard.press(drawer)
    page.wait_for_selector("#guidelines .message")
    time.sleep(0.3)  # transitions of colour
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    a, b = (page.locator(f"#card-{letter}").bounding_box() for letter in "AB")
    if width > 700:
        assert (a["y"], a["height"], a["width"]) == (b["y"], b["height"], b["width"])
    else:
        assert b["y"] >= a["y"] + a["height"]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_ai_opinion_is_shown_only_in_its_arm(make_site, open_page, share):
    site = make_site(numbered(1))
    save_settings(site.store, QueueSettings(show_ai_share=share))
    judge = site.store.annotator("judge-1", "judge")
    with site.store.begin() as session:
        session.add(
            Judgement(comparison_id=1, annotator_id=judge, outcome="verdict", p_first=0.8, call_keys=[])
        )
    page = open_page(site, site.person("mei"))
    page.wait_for_selector(READY)
    first = "A" if texts_of(page)[0].startswith("first") else "B"
    if share:
        assert f"prefers {first} (80 %)" in page.inner_text("#opinion")
    else:
        assert not page.is_visible("#opinion")
        assert "judge" not in page.inner_text("body").lower()
    press_and_wait(page, "1", "Enter")
    with site.store.begin() as session:
        assert session.query(Assignment).one().arm == ("ai-shown" if share else "")
