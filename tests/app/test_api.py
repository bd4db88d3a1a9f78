"""The HTTP API as a script sees it: through the gate, with Bearer tokens, over a real store."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from labeling.app.gate import BODY_LIMIT
from labeling.app.server import create_app
from labeling.people.accounts import create_account, deactivate
from labeling.people.audit import entries
from labeling.people.person import Person
from labeling.people.tokens import make_token
from labeling.queue.settings import QueueSettings, read_settings, save_settings
from labeling.schema import Judgement
from labeling.store import Store
from labeling.views import NewLabel
from tests.app.site import comparison

ANSWER = {"verdict": "preference", "choice": 0, "strength": 2, "seconds": 3.5}


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    store = Store.open(str(tmp_path / "align.db"))
    store.add_comparisons([comparison(f"question {n}", f"first {n}", f"second {n}") for n in range(4)])
    yield store
    store.engine.dispose()


@pytest.fixture
def app(store) -> FastAPI:
    return create_app(store)  # its pages are only built when it is started


@pytest.fixture
def script(app, store) -> Callable[..., TestClient]:
    """A client that acts for somebody by their token."""

    def script(person: Person) -> TestClient:
        token = make_token(store, person.id, "test", by=None)
        return TestClient(app, headers={"Authorization": f"Bearer {token}"})

    return script


@pytest.fixture
def ann(store) -> Person:
    return create_account(store, "ann", "annotator", by=None)


@pytest.fixture
def lea(store) -> Person:
    return create_account(store, "lea", "lead", by=None)


def submit(client: TestClient, token: str, key: str = "k", **changes: object):
    return client.post(
        f"/api/assignments/{token}/submit", json=ANSWER | changes, headers={"Idempotency-Key": key}
    )


def test_a_script_labels_everything(store, script, ann):
    client = script(ann)
    assert client.get("/api/me").json() == {"name": "ann", "role": "annotator", "language": "en"}
    shown = []
    while (claimed := client.post("/api/claim")).status_code == 200:
        item = claimed.json()
        assert set(item) == {"token", "prompt", "answers", "lease_until", "ai_opinion"}
        assert "secret-model" not in claimed.text  # nothing says who wrote what
        shown.append(item["answers"][0][0]["content"].split()[0])
        assert submit(client, item["token"]).json()["late"] is False
    assert (claimed.status_code, claimed.content) == (204, b"")
    labels = list(store.effective_labels())
    assert len(labels) == 4
    assert [label.p_first == 1.0 for label in labels] == [label.shown_order[0] == 0 for label in labels]
    assert client.get("/api/progress").json()["today"] == 4


def test_the_same_key_is_recorded_once_and_another_is_refused(store, script, ann):
    client = script(ann)
    token = client.post("/api/claim").json()["token"]
    first = submit(client, token, "a").json()
    assert submit(client, token, "a").json() == first
    again = submit(client, token, "b")
    assert (again.status_code, again.json()) == (400, {"error": "already answered; undo to change it"})
    with ThreadPoolExecutor(8) as pool:
        token = client.post("/api/claim").json()["token"]
        ids = {reply.json()["label_id"] for reply in pool.map(lambda _: submit(client, token, "c"), range(8))}
    assert len(ids) == 1
    assert len(list(store.effective_labels())) == 2


def test_undo_opens_the_last_answer_again(store, script, ann):
    client = script(ann)
    assert client.post("/api/undo").status_code == 204
    item = client.post("/api/claim").json()
    old = submit(client, item["token"], "a").json()["label_id"]
    assert client.post("/api/undo").json()["token"] == item["token"]
    new = submit(client, item["token"], "b", choice=1).json()["label_id"]
    (label,) = store.effective_labels()
    assert (label.id, new > old) == (new, True)


def test_skip_and_flag(store, script, ann, lea):
    client = script(ann)
    token = client.post("/api/claim").json()["token"]
    assert client.post(f"/api/assignments/{token}/flag", json={"reason": "cut off"}).status_code == 204
    assert client.post(f"/api/assignments/{token}/skip", json={"reason": "not my field"}).status_code == 204
    assert client.post("/api/claim").json()["token"] != token
    assert script(lea).get("/api/stats").json()["open_flags"] == 1
    empty = client.post(f"/api/assignments/{token}/skip", json={"reason": ""})
    assert (empty.status_code, list(empty.json())) == (422, ["error"])


def test_nobody_uses_anothers_assignment(store, script, ann, lea):
    token = script(ann).post("/api/claim").json()["token"]
    for reply in (
        submit(script(lea), token),
        script(lea).post(f"/api/assignments/{token}/skip", json={"reason": "x"}),
        script(lea).post(f"/api/assignments/{token}/flag", json={"reason": "x"}),
    ):
        assert reply.status_code == 400
        assert reply.json()["error"].startswith("this item is not yours")
    assert list(store.effective_labels()) == []


LEADS = ["stats", "labels", "settings", "export/labels.csv", "export/snapshot-hf.zip"]


def test_who_may_do_what(app, store, script, ann, lea):
    nobody = TestClient(app)
    routes = [("GET", path) for path in ("me", "progress", *LEADS)] + [("POST", "claim"), ("POST", "undo")]
    for method, path in routes:
        reply = nobody.request(method, f"/api/{path}", headers={"Authorization": "Bearer wrong"})
        assert (reply.status_code, list(reply.json())) == (401, ["error"])
    for path in LEADS:
        reply = script(ann).get(f"/api/{path}")
        assert (reply.status_code, list(reply.json())) == (403, ["error"])
    assert script(ann).put("/api/settings", json={"overlap": 9}).status_code == 403
    assert script(ann).post("/api/import", files={"file": ("a.jsonl", b"{}")}).status_code == 403
    assert read_settings(store).overlap == 1
    client = script(ann)
    deactivate(store, ann.id, by=None)
    assert client.get("/api/me").status_code == 401


def test_a_malformed_answer_is_one_line(script, ann):
    client = script(ann)
    token = client.post("/api/claim").json()["token"]
    for status, changes, says in [
        (400, {"choice": 5}, "names the better side"),
        (400, {"choice": None}, "names the better side"),
        (400, {"verdict": "ranking", "ranks": [1]}, "ranking of 2 sides"),
        (400, {"aspects": {"helpful": [9, 9]}}, "grade from 1 to 5"),
        (422, {"strength": 7}, "strength: "),
        (422, {"verdict": "perhaps"}, "verdict: "),
        (422, {"model": "x"}, "model: "),
    ]:
        reply = submit(client, token, **changes)
        assert reply.status_code == status
        assert says in reply.json()["error"]
        assert "\n" not in reply.json()["error"]
    bare = client.post(f"/api/assignments/{token}/submit", json=ANSWER)
    assert (bare.status_code, "Idempotency-Key" in bare.json()["error"]) == (422, True)


def test_labels_as_json_lines(store, script, lea):
    ann = store.annotator("import-x", "import")
    store.add_label(NewLabel(1, ann, "tie", 0.5, [], "k", rationale="é\n=1+1"))
    reply = script(lea).get("/api/labels")
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    (row,) = (json.loads(line) for line in reply.text.splitlines())
    assert (row["verdict"], row["rationale"], row["annotator"]) == ("tie", "é\n=1+1", "import-x")


def test_settings_are_read_written_and_recorded(store, script, lea):
    client = script(lea)
    assert client.put("/api/settings", json={"overlap": 3, "aspects": ["helpful"]}).status_code == 200
    assert client.get("/api/settings").json() == QueueSettings(overlap=3, aspects=["helpful"]).model_dump()
    for wrong in ({"overlap": 0}, {"overlop": 3}, {"gold_share": 0.6, "repeat_share": 0.6}):
        reply = client.put("/api/settings", json=wrong)
        assert (reply.status_code, list(reply.json())) == (422, ["error"])
    assert read_settings(store).overlap == 3
    entry = entries(store, 1)[0]
    assert (entry.actor, entry.action, entry.detail["overlap"]) == ("lea", "queue.settings", 3)


def test_import(store, script, lea):
    rows = [
        {"prompt": "p1", "chosen": "good", "rejected": "bad"},
        {"prompt": "p2", "chosen": "same", "rejected": "same"},
        {"prompt": "p3", "chosen": "good"},
        {"prompt": "p4", "chosen": "\u202eright to left", "rejected": "x" * 100_000},
    ]
    body = "".join(json.dumps(row) + "\n" for row in rows).encode() + b'{"prompt": "\xff"}\n'
    reply = script(lea).post("/api/import", files={"file": ("../../etc/my file.jsonl", body)})
    report = reply.json()
    assert (report["rows"], report["added"], report["rejected"]) == (5, 2, 3)
    assert [one["row"] for one in report["rejected_rows"]] == [2, 3, 5]
    assert all(one["reason"] for one in report["rejected_rows"])
    assert report["rejects_path"] is None  # no path on the server
    assert "/tmp" not in reply.text
    assert store.counts()["comparisons"] == 6
    assert entries(store, 1)[0].target == "my_file.jsonl"
    nonsense = script(lea).post("/api/import", files={"file": ("x.jsonl", b"\x00\x01 nonsense")})
    assert (nonsense.status_code, list(nonsense.json())) == (400, ["error"])


def test_exports_are_files_of_known_names_only(store, script, lea):
    client = script(lea)
    store.add_label(
        NewLabel(1, store.annotator("=cmd()", "human"), "preference", 1.0, [0, 1], "k", strength=1)
    )
    table = client.get("/api/export/labels.csv")
    assert table.headers["content-disposition"] == 'attachment; filename="labels.csv"'
    assert "'=cmd()" in table.text
    assert pq.read_table(io.BytesIO(client.get("/api/export/labels.parquet").content)).num_rows == 1
    for form, file in (("hf", "README.md"), ("jsonl", "train.jsonl"), ("parquet", "train.parquet")):
        archive = client.get(f"/api/export/snapshot-{form}.zip", params={"test_share": 0})
        names = zipfile.ZipFile(io.BytesIO(archive.content)).namelist()
        assert any(name.endswith(f"/{file}") for name in names)
        assert not any(name.startswith("/") or ".." in name for name in names)
    for path in (
        "labels.exe",
        "labels...%2F..%2Fetc%2Fpasswd",
        "..%2F..%2Fetc%2Fpasswd",
        "snapshot-..%2Fx.zip",
    ):
        assert client.get(f"/api/export/{path}").status_code in (404, 422)
    assert client.get("/api/export/snapshot-hf.zip", params={"test_share": 2}).status_code == 422


def test_nothing_is_left_of_an_export(store, script, lea, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    client = script(lea)
    assert client.get("/api/export/labels.jsonl").status_code == 200
    assert client.get("/api/export/snapshot-hf.zip").json()["error"].startswith("nothing to snapshot")
    assert list((tmp_path / "t").iterdir()) == []


def test_a_cookie_without_the_pages_origin_is_refused(app, store, lea):
    from labeling.app.identity import COOKIE
    from labeling.people.sessions import open_session

    browser = TestClient(app, cookies={COOKIE: open_session(store, lea.id)})
    assert browser.get("/api/me").status_code == 200
    for origin in ({}, {"Origin": "https://evil.example"}):
        assert browser.put("/api/settings", json={"overlap": 9}, headers=origin).status_code == 403
    assert read_settings(store).overlap == 1
    own = {"Origin": "http://testserver"}
    assert browser.put("/api/settings", json={"overlap": 2}, headers=own).status_code == 200


def test_too_large_a_body_is_refused(script, ann):
    client = script(ann)
    token = client.post("/api/claim").json()["token"]
    assert submit(client, token, rationale="x" * (BODY_LIMIT + 1)).status_code == 413


@pytest.mark.parametrize(("share", "says"), [(0.0, ""), (1.0, "90")])
def test_the_ai_opinion_is_only_in_its_arm(store, script, ann, share, says):
    save_settings(store, QueueSettings(show_ai_share=share))
    judge = store.annotator("judge", "judge")
    with store.begin() as session:
        for one in store.comparisons():
            session.add(
                Judgement(
                    comparison_id=one.id, annotator_id=judge, outcome="verdict", p_first=0.9, call_keys=[]
                )
            )
    opinion = script(ann).post("/api/claim").json()["ai_opinion"]
    assert says in opinion
    assert bool(opinion) == bool(says)


def test_openapi_names_every_route(app):
    paths = TestClient(app).get("/api/openapi.json").json()["paths"]
    assert {
        "/api/me", "/api/claim", "/api/undo", "/api/progress", "/api/stats", "/api/labels", "/api/import",
        "/api/settings", "/api/assignments/{token}/submit", "/api/assignments/{token}/skip",
        "/api/assignments/{token}/flag", "/api/export/labels.{form}", "/api/export/snapshot-{form}.zip",
    } == set(paths)  # fmt: skip
    assert paths["/api/claim"]["post"]["security"] == [{"HTTPBearer": []}]
    assert all(operation.get("description") for path in paths.values() for operation in path.values())
