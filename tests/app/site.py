"""A real server over a real store, for tests."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import httpx
import uvicorn

from labeling.app.identity import COOKIE
from labeling.app.live import Policy
from labeling.app.server import create_app
from labeling.people.accounts import create_account, set_preferences
from labeling.people.person import Person
from labeling.people.sessions import open_session
from labeling.store import Store
from labeling.views import LabelView, NewComparison, NewCompletion


class Site:
    """A server in a thread, at an address that outlives it. Which store it serves can be changed."""

    policy: Policy | None = None  # for live pairs

    def __init__(self, path: Path) -> None:
        self.store = Store.open(str(path))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def point_at(self, path: Path) -> None:
        """Serve another store from now on: building the pages takes longer than most tests."""
        self.store.engine.dispose()
        Store.__init__(self.store, Store.open(str(path)).engine)

    def start(self) -> None:
        config = uvicorn.Config(
            create_app(self.store, self.policy),
            port=self.port,
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.02)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()

    def person(self, name: str, role: str = "annotator", **preferences: str) -> Person:
        person = create_account(self.store, name, role, by=None)
        return set_preferences(self.store, person.id, **preferences) if preferences else person

    def labels(self) -> list[LabelView]:
        return list(self.store.effective_labels())

    def session(self, person: Person) -> str:
        """A cookie for somebody, without hashing a password."""
        return open_session(self.store, person.id)

    def client(self, person: Person | None = None) -> httpx.Client:
        """A browser's manners without a browser: a cookie, and the page's own origin."""
        cookies = {COOKIE: self.session(person)} if person else {}
        headers = {"Origin": self.url}
        return httpx.Client(base_url=self.url, cookies=cookies, headers=headers, timeout=60)


def comparison(prompt: str, *answers: str) -> NewComparison:
    """Answers by models whose names must never reach a page."""
    sides = [
        NewCompletion([{"role": "assistant", "content": text}], f"secret-model-{place}")
        for place, text in enumerate(answers)
    ]
    return NewComparison([{"role": "user", "content": prompt}], sides)
