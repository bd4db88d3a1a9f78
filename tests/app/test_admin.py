"""The lead's page in a real browser, and what becomes of those who are no leads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import gradio as gr
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import TimeoutError, expect
from starlette.requests import Request as StarletteRequest

from labeling.app.admin import build_admin
from labeling.app.identity import COOKIE, STORE_KEY
from labeling.app.lead.desk import note
from labeling.app.lead.lookup import find_items, open_flags, read_gold_of
from labeling.people.accounts import person_named
from labeling.people.audit import entries
from labeling.people.passwords import accept_invitation
from labeling.queue.claim import claim
from labeling.queue.settings import QueueSettings, read_settings, save_settings
from labeling.queue.submit import Answer, flag, submit
from labeling.views import NewLabel
from tests.app.site import Site, comparison

HOSTILE = '<img src=x onerror=alert(1)> **bold** <form action="https://evil.example"><input></form>'


@pytest.fixture
def site(make_site) -> Site:
    """Four comparisons at overlap 2; two people disagree on one, and one of them flags it."""
    pairs = [
        comparison(f"Question {n} {HOSTILE}", f"first answer {n}", f"second answer {n}") for n in range(4)
    ]
    site = make_site(pairs)
    save_settings(site.store, QueueSettings(overlap=2))
    for n, name in enumerate(("ann <b>", "ben")):
        person = site.person(name)
        while assigned := claim(site.store, person.id):
            first = assigned.shown_order.index(0)
            choice = first if n == 0 or assigned.comparison.id != 2 else 1 - first
            if n == 0 and assigned.comparison.id == 3:
                flag(site.store, assigned.token, person.id, f"cut off {HOSTILE}")
            submit(
                site.store, assigned.token, person.id, Answer("preference", choice, 2, seconds=10.0), key="k"
            )
    return site


@pytest.fixture
def admin(site, open_page):
    return open_page(site, site.person("lea", "admin"), "/admin/")


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def click(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).locator("visible=true").click()


def says(page, text: str, *, wrong: bool = False) -> None:
    page.locator(f".notice p.{'wrong' if wrong else 'said'}").get_by_text(text).locator(
        "visible=true"
    ).wait_for()


def choose(page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).locator("visible=true").click()
    page.get_by_role("option", name=option).click()


def field(page, label: str, *, exact: bool = True):
    return page.get_by_label(label, exact=exact).locator("visible=true")


def test_the_lead_sees_the_figures(site, admin):
    admin.wait_for_selector(".tiles")
    tiles = {
        tile.query_selector(".name").inner_text(): tile.query_selector("b").inner_text()
        for tile in admin.query_selector_all(".tile")
    }
    assert (tiles["Labels by people"], tiles["Comparisons finished"], tiles["Time per item"]) == (
        "8",
        "100 %",
        "10 s",
    )
    assert admin.locator(".plots svg").count() >= 3
    people = admin.locator("table", has_text="Median time").inner_text()
    assert "ann <b>" in people
    ben = person_named(site.store, "ben").id
    site.store.add_label(NewLabel(1, ben, "tie", 0.5, [0, 1], "one more"))
    click(admin, "Refresh")
    admin.locator(".tile b", has_text=re.compile("^9$")).wait_for()


def test_settings_are_saved_with_one_click_and_errors_in_words(site, admin):
    tab(admin, "Queue")
    expect(field(admin, "People per item")).to_have_value("2")  # what is stored has come
    field(admin, "Lease, in minutes").fill("5")
    field(admin, "Aspects, with commas between", exact=False).fill("helpful, honest ,")
    field(admin, "Guidelines (Markdown)", exact=False).fill("Be **kind**.")
    click(admin, "Save")
    says(admin, "Saved.")
    kept = read_settings(site.store)
    assert (kept.lease_minutes, kept.aspects, kept.guidelines) == (5, ["helpful", "honest"], "Be **kind**.")
    assert kept.overlap == 2  # what was not touched stays
    assert set(entries(site.store, 1)[0].detail) == {"lease_minutes", "aspects", "guidelines"}
    field(admin, "Share of gold items").fill("0.9")
    field(admin, "Share of repeated items").fill("0.9")
    click(admin, "Save")
    says(admin, "Not saved", wrong=True)
    assert read_settings(site.store) == kept


def test_people_come_in_by_a_link_that_is_shown_once(site, admin):
    tab(admin, "People")
    field(admin, "Name").fill("mei")
    click(admin, "Make a link")
    says(admin, "mei can come in by this link.")
    link = field(admin, "One-time link", exact=False).input_value()
    assert link.startswith(f"{site.url}/invitation/")
    assert Axe().run(admin).response["violations"] == []  # with the link on the page
    accept_invitation(site.store, link.rsplit("/", 1)[1], "a long enough password")
    choose(admin, "Person", "mei")
    click(admin, "Deactivate")
    says(admin, "mei is shut out")
    assert field(admin, "One-time link", exact=False).count() == 0
    assert not person_named(site.store, "mei").active
    choose(admin, "Person", "lea")
    click(admin, "Deactivate")
    says(admin, "last", wrong=True)  # the last admin stays
    tab(admin, "Audit log")
    admin.locator("td", has_text="person.deactivate").wait_for()


def test_items_are_found_made_gold_and_their_flags_settled(site, admin):
    tab(admin, "Items")
    choose(admin, "Among", "Flagged")
    field(admin, "Find").fill("question 2 <IMG")
    click(admin, "Find")
    admin.locator("td", has_text="Question 2").wait_for()
    field(admin, "Item").fill("3")
    click(admin, "Open")
    admin.locator("td", has_text="cut off").wait_for()
    assert admin.locator("#tabs img, #tabs form input").count() == 0
    field(admin, "The first is better").check()
    click(admin, "Make it gold")
    says(admin, "Item 3 is gold.")
    assert read_gold_of(site.store, 3) == ("preference", 1.0, "")
    click(admin, "Settle its flags")
    says(admin, "The flags of item 3 are settled.")
    assert open_flags(site.store, 3) == []
    click(admin, "Not gold any more")
    says(admin, "ordinary item")
    assert read_gold_of(site.store, 3) is None
    field(admin, "Item").fill("99")
    click(admin, "Open")
    says(admin, "there is no item '99'", wrong=True)
    assert [entry.action for entry in entries(site.store, 3)] == ["item.ungold", "item.settle", "item.gold"]


def test_the_lead_decides_where_people_disagree(site, admin):
    tab(admin, "Adjudicate")
    admin.locator("td", has_text="A better, clearly").wait_for()
    text = admin.inner_text("#tabs")
    assert "secret-model" not in text
    assert "ann" not in text  # what was said, not who said it
    field(admin, "B better").check()
    field(admin, "Why").fill("it is shorter")
    click(admin, "Decide")
    says(admin, "Item 2 is decided.")
    (decision,) = (label for label in site.labels() if label.purpose == "adjudicate")
    assert (decision.comparison_id, decision.p_first, decision.rationale) == (2, 0.0, "it is shorter")
    assert admin.locator("td", has_text="A better, clearly").locator("visible=true").count() == 0


def choose_file(page, path):
    """Chosen again if the field was there before the script that listens to it, as on a busy machine."""
    for last in (False, False, False, True):
        page.set_input_files("input[type=file]", path)
        try:
            page.get_by_text(path.name).first.wait_for(timeout=20_000 if last else 5_000)
            return
        except TimeoutError:
            if last:
                raise


def test_a_file_is_imported_with_a_report(site, admin, tmp_path):
    rows = [{"prompt": "new", "chosen": "a", "rejected": "b"}, {"prompt": "new", "chosen": HOSTILE}]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tab(admin, "Import")
    choose_file(admin, tmp_path / "more.jsonl")
    click(admin, "Import")
    says(admin, "1 of 2 rows added.")
    assert "rejected: does not have what" in admin.inner_text("#tabs pre")
    assert site.store.counts()["comparisons"] == 5
    assert entries(site.store, 1)[0].target == "more.jsonl"


def test_labels_are_taken_away_as_files(site, admin):
    tab(admin, "Export")
    with admin.expect_download() as csv:
        admin.get_by_role("link", name="CSV").click()
    lines = csv.value.path().read_text(encoding="utf-8").splitlines()
    assert (csv.value.suggested_filename, len(lines)) == ("labels.csv", 9)
    with admin.expect_download() as archive:
        admin.get_by_role("link", name="Hugging Face dataset").click()
    assert re.fullmatch(r"snapshot-[0-9a-f]{16}-hf\.zip", archive.value.suggested_filename)


def test_without_a_policy_the_live_tab_says_how_to_have_one(admin):
    tab(admin, "Live")
    admin.get_by_text("--policy").wait_for()


class Echo:
    name = "echo"

    def __call__(self, prompt: list[dict[str, str]], count: int) -> list[str]:
        return [f"{n}: {prompt[-1]['content']} {HOSTILE}" for n in range(count)]


@pytest.fixture
def live_site(tmp_path) -> Iterator[Site]:
    site = Site(tmp_path / "live.db")
    site.policy = Echo()
    site.start()
    yield site
    site.stop()


def test_a_live_pair_is_labelled_at_once(live_site, open_page):
    site = live_site
    page = open_page(site, site.person("lea", "lead"), "/admin/")
    tab(page, "Live")
    click(page, "Ask the policy twice")
    says(page, "type a prompt first", wrong=True)
    field(page, "Prompt").fill("hello there")
    click(page, "Ask the policy twice")
    page.get_by_text("0: hello there").wait_for()
    assert page.locator("#tabs img").count() == 0
    field(page, "A much better").check()
    click(page, "Submit")
    says(page, "Saved.")
    (label,) = site.labels()
    assert (label.strength, label.annotator, label.p_first == 1.0) == (3, "lea", label.shown_order[0] == 0)


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(site, open_page, width):
    admin = open_page(
        site, site.person("lea", "lead"), "/admin/", viewport={"width": width, "height": 900},
        color_scheme="dark" if width == 390 else "light",
    )  # fmt: skip
    admin.wait_for_selector(".tiles")
    names = ["Overview", "Queue", "People", "Items", "Adjudicate", "Import", "Export", "Live", "Audit log"]
    for name in names if width == 1280 else names[:3]:
        tab(admin, name)
        admin.wait_for_timeout(300)
        found = Axe().run(admin).response["violations"]
        assert [(name, one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
        wide = admin.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, name


def test_annotators_find_no_way_in(site, open_page):
    ann = site.person("mei")
    with site.client(ann) as client:
        assert client.get("/admin/").status_code == 403
        assert client.get("/admin/config").status_code in (401, 403, 404)
    with site.client() as client:
        assert client.get("/admin/").status_code == 303
    lea = site.person("lea", "lead")
    with site.client(lea) as client:
        handlers = [one["id"] for one in client.get("/admin/config").json()["dependencies"]]
    assert len(handlers) > 20
    before = (read_settings(site.store), len(site.labels()), len(entries(site.store)))
    for person in (ann, None):
        with site.client(person) as client:
            for handler in handlers:
                reply = client.post(
                    "/admin/gradio_api/run/predict",
                    json={"data": [], "fn_index": handler, "session_hash": "x"},
                )
                assert reply.status_code in (401, 403), (handler, reply.text)
    assert (read_settings(site.store), len(site.labels()), len(entries(site.store))) == before


def test_every_handler_checks_the_role_itself(site):
    """As if nothing stood before them: each refuses an annotator, whatever it is given."""
    cookie = f"{COOKIE}={site.session(site.person('mei'))}".encode()
    scope = {"type": "http", "headers": [(b"cookie", cookie)], STORE_KEY: site.store}
    request = gr.Request(StarletteRequest(scope))
    before = (read_settings(site.store), len(site.labels()), len(entries(site.store)))
    handlers = [one for one in build_admin(site.store, Echo()).fns.values() if one.fn]
    assert len(handlers) > 20
    for handler in handlers:
        told = handler.fn(request, *[None] * len(handler.inputs))
        assert [value for value in told.values() if value] == [
            note("this needs the role lead; yours is annotator", wrong=True)
        ]
    assert (read_settings(site.store), len(site.labels()), len(entries(site.store))) == before


def test_leads_do_not_make_admins(site, open_page):
    page = open_page(site, site.person("lea", "lead"), "/admin/")
    tab(page, "People")
    field(page, "Name").fill("eve")
    choose(page, "Role", "Admin")
    click(page, "Make a link")
    says(page, "this needs the role admin", wrong=True)


def test_search_finds_text_as_it_is_and_pages_on(site):
    store = site.store
    store.add_comparisons([comparison(f'50% "é"\n_{n}', "a", "b") for n in range(25)])
    found = find_items(store, '50% "É"\n'.lower())
    assert len(found) == 20
    assert len(find_items(store, '50% "é"', found[-1].id)) == 5
    assert find_items(store, "7")[0].id == 7
    assert find_items(store, "50_") == []
