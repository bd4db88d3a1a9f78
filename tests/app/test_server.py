"""The server without a browser: who gets in, what is refused, and what every answer carries."""

from __future__ import annotations

import re
import sys
from subprocess import run

import httpx
import pytest
from sqlalchemy import select

from labeling.people.accounts import create_account, deactivate, first_admin, invite
from labeling.people.sessions import revoke_all
from labeling.queue.claim import claim
from labeling.schema import Assignment
from tests.app.site import comparison

PASSWORD = "a river in the rain"


@pytest.fixture
def site(make_site):
    return make_site([comparison(f"Question {n}", f"first {n}", f"second {n}") for n in range(3)])


def press(client: httpx.Client, button: str, *data: object, page: str = "/label/en") -> httpx.Response:
    """What the browser sends when a button is pressed: the handler called `button`, by its place in the page."""
    order = ["open", "submit", "undo", "skip", "flag"]
    body = {"fn_index": order.index(button), "data": data, "session_hash": "abc"}
    return client.post(f"{page}/gradio_api/run/predict", json=body)


def answer(step: int) -> list[object]:
    """The form as `Form.filled` has it, with a step of the scale chosen."""
    return [step, False, "", "1.5", *[None] * 9, *[None] * 12]


def test_sign_in_and_out(site):
    create_account(site.store, "mei", password=PASSWORD, by=None)
    client = site.client()
    assert client.get("/label").headers["location"] == "/login"
    assert client.get("/label/en/").headers["location"] == "/login?next=/label/en/"
    wrong = client.post("/login", data={"name": "mei", "password": "wrong"})
    unknown = client.post("/login", data={"name": "nobody", "password": "wrong"})
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text.replace("mei", "nobody") == unknown.text
    assert client.post("/login", data={"name": "<b>x", "password": "y"}).text.count("<b>x") == 0
    right = client.post("/login?next=/label/zh/", data={"name": "mei", "password": PASSWORD})
    assert (right.status_code, right.headers["location"]) == (303, "/label/zh/")
    cookie = right.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    # a session that is used extends itself, and the browser must not forget it before
    assert int(re.search(r"max-age=(\d+)", cookie)[1]) > 14 * 24 * 3600
    assert client.get("/label/en/").status_code == 200
    assert client.post("/logout").headers["location"] == "/login"
    client.cookies.set("align_session", re.search("align_session=([^;]+)", right.headers["set-cookie"])[1])
    assert client.get("/label/en/").status_code == 303  # ended on the server, not only forgotten here


@pytest.mark.parametrize("path", ["//attacker.invalid", "https://attacker.invalid", "/\\attacker.invalid"])
def test_signing_in_leads_to_no_other_site(site, path):
    create_account(site.store, "mei", password=PASSWORD, by=None)
    entered = site.client().post("/login", params={"next": path}, data={"name": "mei", "password": PASSWORD})
    assert entered.headers["location"] == "/label"


def test_guessing_is_throttled(site):
    create_account(site.store, "mei", password=PASSWORD, by=None)
    client = site.client()
    for _ in range(10):
        client.post("/login", data={"name": "mei", "password": "guess"})
    refused = client.post("/login", data={"name": "mei", "password": PASSWORD})
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 15 * 60
    assert "set-cookie" not in refused.headers


def test_an_invitation_works_once(site):
    token = invite(site.store, "jan", by=None)
    client = site.client()
    page = client.get(f"/invitation/{token}", headers={"Accept-Language": "zh-CN"})
    assert "设置密码" in page.text
    assert "jan" in page.text
    differ = client.post(f"/invitation/{token}", data={"password": PASSWORD, "again": "x"})
    assert (differ.status_code, "differ" in differ.text) == (400, True)
    short = client.post(f"/invitation/{token}", data={"password": "short", "again": "short"})
    assert short.status_code == 400
    taken = client.post(f"/invitation/{token}", data={"password": PASSWORD, "again": PASSWORD})
    assert taken.headers["location"] == "/label"
    assert client.get("/label/en/").status_code == 200
    assert site.client().get(f"/invitation/{token}").status_code == 404
    assert site.client().get("/invitation/guess").status_code == 404


def test_the_first_admin_comes_in_by_a_link(site):
    token = first_admin(site.store)
    client = site.client()
    client.post(f"/invitation/{token}", data={"password": PASSWORD, "again": PASSWORD})
    assert client.get("/admin/").status_code == 200
    assert first_admin(site.store) is None


def test_nothing_is_changed_from_another_site(site):
    mei = site.client(site.person("mei"))
    for origin in (
        "http://attacker.invalid",
        "null",
        site.url.replace("127.0.0.1", "127.0.0.1.attacker.invalid"),
        "",
    ):
        for path in ("/logout", "/preferences", "/label/en/gradio_api/run/predict", "/login"):
            assert mei.post(path, headers={"Origin": origin}).status_code == 403, (origin, path)
    assert press(mei, "open").status_code == 200
    answered = mei.get("/health", headers={"Origin": "http://attacker.invalid"})
    assert "access-control-allow-origin" not in answered.headers
    cross = mei.get("/label/en/config", headers={"Origin": "http://attacker.invalid"})
    assert "access-control-allow-origin" not in cross.headers


def test_handlers_need_a_session(site):
    for client in (site.client(), httpx.Client(base_url=site.url, headers={"Origin": site.url})):
        for button in ("open", "submit", "undo", "skip", "flag"):
            assert press(client, button).status_code == 401
    with site.store.begin() as session:
        assert session.scalars(select(Assignment)).all() == []


def test_an_annotator_cannot_use_the_leads_page(site):
    mei = site.client(site.person("mei"))
    assert mei.get("/admin/").status_code == 403
    assert press(mei, "open", page="/admin").status_code == 401
    assert mei.post("/admin/gradio_api/upload", files={"files": b"x"}).status_code == 401
    assert mei.get("/admin/gradio_api/file=/etc/passwd").status_code == 401
    lead = site.client(site.person("ada", "lead"))
    assert lead.get("/admin/").status_code == 200
    assert lead.get("/admin/gradio_api/file=/etc/passwd").status_code == 403
    assert lead.get("/static/../server.py").status_code == 404
    assert lead.get("/static/%2e%2e/server.py").status_code == 404


def test_only_the_doors_that_pages_need_are_open(site):
    mei = site.client(site.person("mei"))
    for door in (
        "upload",
        "file=/etc/passwd",
        "proxy=http://a.b",
        "call/open",
        "api/open",
        "openapi.json",
        "runs",
    ):
        assert mei.get(f"/label/en/gradio_api/{door}").status_code == 404, door
    for door in ("monitoring", "login", "manifest.json", "svelte/x"):
        assert mei.get(f"/label/en/{door}").status_code == 404, door


def test_another_persons_assignment_is_refused(site):
    mei, jan = site.person("mei"), site.person("jan")
    token = claim(site.store, mei.id).token
    for button, data in (
        ("submit", [token, "k", *answer(1)]),
        ("skip", [token, "other", ""]),
        ("flag", [token, "x"]),
    ):
        assert "not yours" in press(site.client(jan), button, *data).text
    assert site.labels() == []
    assert "Saved" in press(site.client(mei), "submit", token, "k", *answer(1)).text
    assert [label.annotator for label in site.labels()] == ["mei"]


@pytest.mark.parametrize("step", [0, 9, -1, "1", 1.5, True, None, [1], {"a": 1}])
def test_a_forged_answer_is_refused(site, step):
    mei = site.person("mei")
    token = claim(site.store, mei.id).token
    press(site.client(mei), "submit", token, "k", *answer(step))
    assert site.labels() == []


def test_sending_twice_is_sending_once(site):
    mei = site.person("mei")
    token = claim(site.store, mei.id).token
    for _ in range(3):
        press(site.client(mei), "submit", token, "same key", *answer(2))
    assert len(site.labels()) == 1
    assert "already answered" in press(site.client(mei), "submit", token, "other key", *answer(6)).text
    assert len(site.labels()) == 1


@pytest.mark.parametrize("end", [revoke_all, deactivate])
def test_a_session_that_was_ended_does_nothing_more(site, end):
    mei = site.person("mei")
    client = site.client(mei)
    assert press(client, "open").status_code == 200
    end(site.store, mei.id, by=None)
    assert press(client, "open").status_code == 401
    assert client.get("/label/en/").headers["location"].startswith("/login")


def test_a_body_that_is_too_large_is_refused(site):
    mei = site.client(site.person("mei"))
    path = "/label/en/gradio_api/run/predict"
    assert mei.post(path, content=b"x" * 3_000_000).status_code == 413
    in_parts = (b"x" * 100_000 for _ in range(30))  # without a length declared
    assert mei.post(path, content=in_parts).status_code == 413
    assert mei.post("/login", content=b"x" * 3_000_000).status_code == 413


def test_every_answer_carries_the_security_headers(site):
    mei = site.client(site.person("mei"))
    for path in ("/login", "/label/en/", "/health", "/nowhere", "/label/en/gradio_api/upload"):
        headers = mei.get(path).headers
        policy = headers["content-security-policy"]
        assert "unsafe-eval" not in policy
        assert "script-src 'self' 'nonce-" in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    page = mei.get("/label/en/")
    nonce = re.search("nonce-([^']+)", page.headers["content-security-policy"])[1]
    scripts = re.findall(r"<script\b[^>]*>", page.text)
    assert scripts
    assert all(f'nonce="{nonce}"' in script for script in scripts)
    assert nonce not in mei.get("/label/en/").text


def test_starts_light(tmp_path):
    """The server answers before Gradio is there; with it, it still needs no torch and little memory."""
    code = f"""
import re, sys
from pathlib import Path
from labeling.app.server import create_app
from labeling.store import Store
store = Store.open({str(tmp_path / "align.db")!r})
create_app(store)
print(sorted({{"gradio", "pandas", "torch"}} & set(sys.modules)))
from labeling.app.rooms import build_rooms
build_rooms(store, None)
print(sorted({{"torch", "transformers", "datasets", "matplotlib.pyplot"}} & set(sys.modules)))
# its own peak: ru_maxrss would begin with that of the process which started it
print(int(re.search("VmHWM: *([0-9]+)", Path("/proc/self/status").read_text().replace("\\t", " "))[1]) // 1024)
"""
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    early, late, megabytes = done.stdout.splitlines()
    assert early == late == "[]"
    assert int(megabytes) < 400
