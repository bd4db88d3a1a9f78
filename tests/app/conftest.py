"""A real server over a real store, people who can sign in, and a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labeling.app.identity import COOKIE
from labeling.people.person import Person
from labeling.views import NewComparison
from tests.app.site import Site

CHROMIUM = "/usr/bin/chromium"
SLOW_FRAME = 300  # milliseconds


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site") / "align.db")
    site.start()
    yield site
    site.stop()
    site.store.engine.dispose()


@pytest.fixture
def make_site(served: Site, tmp_path: Path) -> Callable[[list[NewComparison]], Site]:
    """Points the server at a new store, with the comparisons given."""

    def make(comparisons: list[NewComparison]) -> Site:
        served.point_at(tmp_path / "align.db")
        served.store.add_comparisons(comparisons)
        return served

    return make


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Not for the whole session: while it is open its event loop runs, and other tests start their own."""
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no browser at {CHROMIUM} (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page of a site as somebody; fails the test if the page logs an error or asks another host."""
    contexts, problems = [], []

    def open_page(
        site: Site,
        person: Person | None = None,
        path: str = "/label",
        slow_frames: bool = False,
        **context: Any,
    ) -> Any:
        tab = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        contexts.append(tab)
        if person:
            tab.add_cookies([{"name": COOKIE, "value": site.session(person), "url": site.url}])
        if slow_frames:  # as on a busy machine
            tab.add_init_script(
                f"window.requestAnimationFrame = (draw) => setTimeout(() => draw(performance.now()), {SLOW_FRAME})"
            )
        page = tab.new_page()
        page.set_default_timeout(20_000)
        page.problems = problems
        page.on("console", lambda said: said.type == "error" and problems.append(said.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: is_elsewhere(asked.url, site) and problems.append(asked.url))
        page.goto(site.url + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def is_elsewhere(url: str, site: Site) -> bool:
    return not url.startswith((site.url, "data:", "blob:"))
