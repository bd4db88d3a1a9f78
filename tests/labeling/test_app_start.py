"""Starting the app costs the same on ten comparisons and on a million: it reads none of them, and needs no torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from benchmarks.next_item import filled

SERVE_AND_TELL = """
import json, os, signal, sys, threading
import httpx
from sqlalchemy import Engine, event
from labeling.app.server import serve

statements = []
event.listen(Engine, "before_cursor_execute", lambda *a: statements.append((a[2], a[3])))

def visit(said):
    if said.startswith("labeling at "):
        threading.Thread(target=tell, args=[said.split()[2]]).start()

def tell(url):
    health = httpx.get(url + "/health").json()
    httpx.get(url + "/label/en/theme.css", timeout=60)  # answers when Gradio's pages are built
    print(json.dumps([health, statements, sorted(sys.modules)], default=str), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

serve(sys.argv[1], port=0, say=visit)
"""
BIG = re.compile("SCAN (prompt|completion|comparison)")  # or an alias of theirs


@pytest.mark.timeout(90)
def test_starting_reads_no_comparison_and_no_torch(tmp_path):
    store = filled(str(tmp_path / "align.db"), 10_000)
    done = subprocess.run(
        [sys.executable, "-c", SERVE_AND_TELL, tmp_path / "align.db"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    health, statements, modules = json.loads(done.stdout)
    assert health == {"status": "ok"}
    assert "gradio" in modules
    assert not {"torch", "transformers", "datasets", "alignment", "reward", "rollout"} & set(modules)
    read = [(query, values) for query, values in statements if query.lstrip().upper().startswith("SELECT")]
    assert any("account" in query for query, _ in read)  # it looked whether anybody can sign in
    with store.engine.connect() as connection:
        plans = [plan for query, values in read for plan in explain(connection, query, values)]
        count = "SELECT count(*) FROM comparison"
        assert scanned(explain(connection, count, [])) == [count]  # what is looked for would be seen
    assert scanned(plans) == []
    store.engine.dispose()


def explain(connection, query, values):
    """(what SQLite does, for which query), step by step."""
    steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", tuple(values)).all()
    return [(step.detail, query) for step in steps]


def scanned(plans):
    """The queries that walk through the whole of a big table or of an index on it."""
    return [query for detail, query in plans if BIG.match(detail)]
