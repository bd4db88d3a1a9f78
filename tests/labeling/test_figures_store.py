"""The figures read from a real store, and drawn."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import UTC, date, datetime

import pytest

from labeling.figures import plots
from labeling.figures.dashboard import read_dashboard
from labeling.figures.lines import dashboard_lines
from labeling.figures.rates import Rate
from labeling.figures.table import PURPOSES, read_table
from labeling.figures.throughput import DayCount, Pace
from labeling.queue.gold import set_gold
from labeling.queue.settings import QueueSettings, save_settings
from labeling.views import NewLabel

MARKED = 'a <b> & "c" $x$'  # as a name: HTML, and what matplotlib would read as a formula


@pytest.fixture
def labelled(store, ask, answer):
    """Four comparisons, two people, a judge, a correction, a ranking and gold."""
    save_settings(store, QueueSettings(overlap=2))
    pairs = [store.add_comparison(ask(f"q{i}"), [answer("a"), answer("b")]).comparison_id for i in range(3)]
    trio = store.add_comparison(ask("q3"), [answer("a"), answer("b"), answer("c")]).comparison_id
    ann, ben = store.annotator(MARKED, "human"), store.annotator("ben", "human")
    judge = store.annotator("judge", "judge")
    add = store.add_label
    old = add(NewLabel(pairs[0], ann, "preference", 0.0, [1, 0], "k1", strength=1, seconds=9.0))
    add(NewLabel(pairs[0], ann, "preference", 1.0, [1, 0], "k2", strength=3, seconds=4.0, supersedes_id=old))
    add(NewLabel(pairs[0], ben, "preference", 1.0, [0, 1], "k3", strength=2, seconds=6.0))
    add(NewLabel(pairs[1], ann, "tie", 0.5, [1, 0], "k4", seconds=8.0))
    add(NewLabel(pairs[1], ben, "both_bad", 0.5, [1, 0], "k5"))
    add(NewLabel(pairs[2], ann, "preference", 1.0, [0, 1], "k6", purpose="gold"))
    add(NewLabel(pairs[0], judge, "preference", 0.8, [[0, 1], [1, 0]], "k7"))
    add(NewLabel(trio, ann, "ranking", 0.5, [2, 0, 1], "k8", meta={"ranks": [1, 2, 3]}))
    add(NewLabel(trio, ben, "ranking", 0.5, [0, 1, 2], "k9", meta={"ranks": [1, 3, 2]}))
    set_gold(store, pairs[2], "preference", 1.0)
    return store


def test_the_table_holds_what_stands(labelled):
    table = read_table(labelled)
    assert len(table) == 8  # the corrected one is not among them
    assert table.comparison.tolist() == sorted(table.comparison.tolist())
    people = table.where(table.of_kind("human"))
    assert people.left.tolist() == [1, 0, 1, 1, 0, 2, 0]
    assert [PURPOSES[one] for one in people.purpose].count("gold") == 1
    assert [ranks for ranks in table.ranks if ranks] == [[1, 2, 3], [1, 3, 2]]
    age = datetime.now(UTC).replace(tzinfo=None) - table.time.max().astype(datetime)
    assert abs(age.total_seconds()) < 60  # UTC, whatever zone the database is in
    assert table.left[table.of_kind("judge")].tolist() == [-1]


def test_the_dashboard_of_a_store(labelled):
    found = read_dashboard(labelled)
    assert (found.comparisons, found.finished, found.today, found.judge_labels) == (4, 4, 7, 1)
    assert found.purposes == {"label": 6, "gold": 1, "repeat": 0, "adjudicate": 0, "late": 0}
    assert found.pace is not None
    assert (found.pace.timed, found.pace.median) == (3, 6.0)
    assert found.gold == {"": Rate(1, 1), MARKED: Rate(1, 1)}
    assert found.position == {"": Rate(2, 3), MARKED: Rate(1, 2), "ben": Rate(1, 1)}
    assert (found.judges.compared, found.judges.agreed) == (1, 1)
    (pair,) = found.kappas
    assert (pair.items, pair.agreement) == (5, pytest.approx(3 / 5))  # two pairs, and three of the ranking
    assert found.people.comparisons == 3
    as_json = found.as_dict()
    assert as_json["gold"]["everyone"]["share"] == 1.0
    assert as_json["days"] == [
        {"day": f"{datetime.now(UTC):%Y-%m-%d}", "person": name, "labels": count}
        for name, count in ((MARKED, 4), ("ben", 3))
    ]
    assert "right on gold: 100 % of 1 (95 %: 21 to 100 %)" in dashboard_lines(found)


def test_the_dashboard_of_an_empty_store(store):
    found = read_dashboard(store)
    assert (found.comparisons, found.days, found.paces, found.kappas, found.gold) == (0, [], [], [], {})
    assert found.people.alpha is None
    assert dashboard_lines(found) == ["comparisons finished: 0 of 0"]


def drawn(svg: str) -> list[str]:
    """The texts of a plot, which must be well-formed."""
    root = ET.fromstring(svg)
    assert root.get("aria-label")
    return ["".join(text.itertext()).strip() for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_plots_show_names_as_they_are():
    days = [DayCount(date(2026, 5, day), name, day) for day in (1, 3) for name in (MARKED, "ben")]
    assert {MARKED, "ben", "01 May", "03 May"} <= set(drawn(plots.throughput(days)))
    assert MARKED in drawn(plots.time_per_item([Pace(MARKED, 3, 1.0, 2.0, 3.0)]))
    assert f"{MARKED} (4)" in drawn(plots.shares({"": Rate(5, 6), MARKED: Rate(3, 4)}, "Right"))
    assert "1,234" in drawn(plots.histogram({"A better": 1234, "both bad": 2}))


def test_plots_stay_readable_with_many_people_and_days():
    crowd = [DayCount(date(2026, month, 1), f"person {n}", 1) for month in range(1, 9) for n in range(40)]
    texts = drawn(plots.throughput(crowd))
    assert "others" in texts
    assert len([text for text in texts if text.startswith("person")]) == len(plots.COLORS)
    assert "01 Jan" not in texts  # only the last thirty days
    assert len(drawn(plots.shares({f"p{n}": Rate(1, 2) for n in range(99)}, "Right"))) < 30
