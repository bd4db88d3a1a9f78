"""The load benchmark's parts, on a small team over a real server."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from benchmarks.labeling_load import Load, conversations, measure_load, percentile
from benchmarks.simulated_annotator import Pace, filled_form
from labeling.app.annotate import read_filled
from labeling.store import Store


def test_a_small_team_labels_over_http(tmp_path):
    load = Load(annotators=4, comparisons=9, pace=Pace(seconds=6, thinking=0.1, arriving=0.2))
    with ThreadPoolExecutor(1) as aside:  # a browser of other tests may leave an event loop in this thread
        figures = aside.submit(measure_load, tmp_path, load).result()
    assert (figures["errors"], figures["lost"]) == (0, 0)
    assert figures["answers"] == 9  # then nothing was left, and they went home
    assert 0 < figures["p50_s"] <= figures["p95_s"] <= figures["slowest_s"]
    store = Store.open(str(tmp_path / "load.db"))
    labels = list(store.effective_labels())
    store.engine.dispose()
    assert len({label.comparison_id for label in labels}) == 9
    assert all(label.annotator.startswith("simulated-") for label in labels)
    assert all(0 <= label.seconds < 6 for label in labels)


def test_the_form_is_the_pages_own():
    filled = read_filled(filled_form(3, 1.25), aspects=["helpful"])
    assert (filled.step, filled.all_bad, filled.seconds) == (3, False, "1.2")
    assert set(filled.ranks) == set(filled.aspects["helpful"]) == {None}


def test_conversations_are_all_different_and_as_long_as_told():
    made = list(conversations(30))
    texts = [side.messages[0]["content"] for one in made for side in one.completions]
    assert len(set(texts)) == 60
    assert all(700 < len(text) < 2500 for text in texts)
    assert [len(one.prompt) for one in made[:3]] == [7, 1, 1]


def test_percentiles():
    values = [float(i) for i in range(101)]
    random.Random(0).shuffle(values)
    assert (percentile(values, 50), percentile(values, 95)) == (50.0, 95.0)
