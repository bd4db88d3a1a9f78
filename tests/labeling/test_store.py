"""The store on SQLite and PostgreSQL: adding, finding again, labelling, correcting, bad input."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import time
from datetime import UTC
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from labeling import migrations
from labeling.errors import LabelingError
from labeling.schema import Base, Completion, Judgement, Label, Prompt
from labeling.store import Store
from labeling.views import NewComparison, NewCompletion, NewLabel


def verdict(comparison, annotator, key, p_first=1.0, **more):
    kind = more.pop("verdict", "preference")
    return NewLabel(comparison, annotator, kind, p_first, [0, 1], key, **more)


def test_migrated_tables_are_those_of_the_schema(store):
    with store.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": migrations.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_head_is_the_newest_revision():
    assert ScriptDirectory.from_config(migrations.config()).get_heads() == [migrations.HEAD]


def test_sqlite_settings(sqlite_store):
    with sqlite_store.engine.connect() as connection:
        pragma = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous")
        }
    assert pragma == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2}


def test_comparison_comes_back_as_it_went_in(store, ask, answer):
    added = store.add_comparison(ask("Ünïcode 你好 \x00?"), [answer("yes", "m1"), answer("no", "m2")])
    assert added.outcome == "added"
    (view,) = store.comparisons()
    assert view.id == added.comparison_id
    assert view.prompt == ask("Ünïcode 你好 \x00?")
    assert view.sides == (
        ([{"role": "assistant", "content": "yes"}], "m1"),
        ([{"role": "assistant", "content": "no"}], "m2"),
    )


def test_times_are_utc(store, ask, answer):
    store.add_comparison(ask("q"), [answer("a"), answer("b")])
    with store.begin() as session:
        made = session.scalars(select(Prompt.created_at)).one()
    assert made.replace(tzinfo=UTC).timestamp() == pytest.approx(time.time(), abs=60)


def test_the_same_comparison_is_found_in_either_order(store, ask, answer):
    first = store.add_comparison(ask("q"), [answer("a"), answer("b")])
    again = store.add_comparison(ask("q"), [answer("b"), answer("a")])
    assert (again.comparison_id, again.outcome) == (first.comparison_id, "duplicate")
    other_prompt = store.add_comparison(ask("r"), [answer("a"), answer("b")])
    assert other_prompt.outcome == "added"
    assert store.counts() == {"prompts": 2, "completions": 4, "comparisons": 2, "labels": 0}


def test_batch_says_what_became_of_each(store, ask, answer):
    batch = [
        NewComparison(ask("q"), [answer("a"), answer("b")]),
        NewComparison(ask("q"), [answer("a"), answer("b")]),
        NewComparison(ask("q"), [answer("a", "m1"), answer("a", "m2")]),
        NewComparison(ask("q"), [answer("a"), answer(" \n")]),
        NewComparison(ask("q"), [answer("a"), answer("c"), answer("a")]),
    ]
    added = store.add_comparisons(batch)
    assert [a.outcome for a in added] == ["added", "duplicate", "identical", "empty", "added"]
    assert added[0].comparison_id == added[1].comparison_id
    assert added[2].comparison_id is None
    (ranked,) = store.comparisons(ids=[added[4].comparison_id])
    assert [side[0][0]["content"] for side in ranked.sides] == ["a", "c"]


def test_nothing_of_a_batch_stays_after_an_error(store, ask, answer):
    bad = NewComparison([{"role": "assistant", "content": "?"}], [answer("a"), answer("b")])
    good = [NewComparison(ask(f"q{i}"), [answer("a"), answer("b")]) for i in range(600)]
    with pytest.raises(LabelingError, match="does not end in a user turn"):
        store.add_comparisons([*good, bad])
    assert store.counts()["prompts"] == 0


@pytest.mark.parametrize(
    ("prompt", "completion", "message"),
    [
        ([], "a", "does not end in a user turn"),
        ([{"role": "user", "content": " "}], "a", "last turn is empty"),
        ([{"role": "user", "content": ["parts"]}], "a", "not text"),
        ([{"role": "human", "content": "q"}], "a", "unknown role 'human'"),
        ([{"role": "user", "content": "q", "tool_calls": []}], "a", "not {role, content}"),
        ([{"role": "user", "content": "\udcff"}], "a", "invalid UTF-8"),
        (["q"], "a", "not {role, content}"),
    ],
)
def test_malformed_prompts_are_refused(sqlite_store, answer, prompt, completion, message):
    with pytest.raises(LabelingError, match=message):
        sqlite_store.add_comparison(prompt, [answer(completion), answer("other")])


def test_number_of_sides(sqlite_store, ask, answer):
    for count in (1, 10):
        with pytest.raises(LabelingError, match="2 to 9 sides"):
            sqlite_store.add_comparison(ask("q"), [answer(str(i)) for i in range(count)])
    user = NewCompletion(ask("I answer myself"))
    with pytest.raises(LabelingError, match="begin and end with an assistant"):
        sqlite_store.add_comparison(ask("q"), [answer("a"), user])


def test_comparisons_select_and_page(store, ask, answer, monkeypatch):
    monkeypatch.setattr("labeling.store.PAGE", 4)
    added = store.add_comparisons(NewComparison(ask(f"q{i}"), [answer("a"), answer("b")]) for i in range(10))
    ids = [a.comparison_id for a in added]
    ann, judge = store.annotator("ann", "human"), store.annotator("judge", "judge")
    store.add_labels(verdict(i, ann, f"ann-{i}") for i in ids[:3])
    with store.begin() as session:
        session.add(Judgement(comparison_id=ids[9], annotator_id=judge, outcome="refused", call_keys=[]))

    def found(**conditions):
        return [view.id for view in store.comparisons(**conditions)]

    assert found() == ids
    assert found(limit=5) == ids[:5]
    assert found(limit=0) == []
    assert found(without_label_by=ann) == ids[3:]
    assert found(without_label_by=judge) == ids
    assert found(without_judgement_by=judge) == ids[:9]
    assert found(unlabelled=True, without_judgement_by=judge, limit=4) == ids[3:7]
    assert found(ids=[ids[7], ids[2], ids[2], 10**6]) == [ids[2], ids[7]]
    assert found(ids=[]) == []
    assert store.count_comparisons(without_label_by=ann) == 7


def test_comparisons_may_be_labelled_while_they_are_read(store, ask, answer, monkeypatch):
    monkeypatch.setattr("labeling.store.PAGE", 3)
    store.add_comparisons(NewComparison(ask(f"q{i}"), [answer("a"), answer("b")]) for i in range(10))
    ann = store.annotator("ann", "human")
    for view in store.comparisons(without_label_by=ann):
        store.add_label(verdict(view.id, ann, f"k{view.id}"))
    assert store.counts()["labels"] == 10


def test_annotators(store):
    ann = store.annotator("ann", "human")
    assert store.annotator("ann", "human") == ann
    assert store.annotator("scripted-1", "scripted") != ann
    for name, kind, message in [
        ("ann", "judge", "is of kind 'human', not 'judge'"),
        ("ben", "robot", "unknown kind 'robot'"),
        ("ben", "scripted", "begin with 'scripted-'"),
        ("scripted-2", "human", "begin with 'scripted-'"),
    ]:
        with pytest.raises(LabelingError, match=message):
            store.annotator(name, kind)


def test_sending_a_label_again_changes_nothing(store, ask, answer):
    comparison = store.add_comparison(ask("q"), [answer("a"), answer("b")]).comparison_id
    ann, ben = store.annotator("ann", "human"), store.annotator("ben", "human")
    first = store.add_label(verdict(comparison, ann, "k1", 1.0))
    assert store.add_label(verdict(comparison, ann, "k1", 0.0)) == first
    assert [label.p_first for label in store.effective_labels()] == [1.0]
    with pytest.raises(LabelingError, match="'k1' already names another label"):
        store.add_label(verdict(comparison, ben, "k1"))
    assert (
        store.add_labels([verdict(comparison, ben, "k2"), verdict(comparison, ben, "k2")]) == [first + 1] * 2
    )


def test_a_correction_supersedes_and_history_stays(store, ask, answer):
    comparison = store.add_comparison(ask("q"), [answer("a"), answer("b")]).comparison_id
    ann, ben = store.annotator("ann", "human"), store.annotator("ben", "human")
    first = store.add_label(verdict(comparison, ann, "k1", 1.0))
    second = store.add_label(verdict(comparison, ann, "k2", 0.0, supersedes_id=first))
    assert [label.id for label in store.effective_labels()] == [second]
    assert store.counts()["labels.human"] == 1
    with store.begin() as session:
        assert session.scalars(select(Label.id).order_by(Label.id)).all() == [first, second]
    with pytest.raises(LabelingError, match="superseded already"):
        store.add_label(verdict(comparison, ann, "k3", supersedes_id=first))
    with pytest.raises(LabelingError, match="not this annotator's"):
        store.add_label(verdict(comparison, ben, "k4", supersedes_id=second))
    with pytest.raises(LabelingError, match="not this annotator's"):
        store.add_label(verdict(comparison, ann, "k5", supersedes_id=999))


def test_a_label_comes_back_as_it_went_in(store, ask, answer):
    comparison = store.add_comparison(ask("q"), [answer("a"), answer("b"), answer("c")]).comparison_id
    ann = store.annotator("ann", "human")
    store.add_label(
        NewLabel(
            comparison, ann, "ranking", 0.5, [2, 0, 1], "k", 2, "shorter\x00", 3.5, {"ranks": [1, 2, 2]}
        )
    )  # fmt: skip
    (label,) = store.effective_labels()
    assert (label.annotator, label.kind, label.verdict, label.strength) == ("ann", "human", "ranking", 2)
    assert (label.shown_order, label.rationale, label.seconds) == ([2, 0, 1], "shorter\ufffd", 3.5)
    assert label.meta == {"ranks": [1, 2, 2]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "maybe"}, "unknown verdict"),
        ({"p_first": 1.2}, "between 0 and 1"),
        ({"p_first": float("nan")}, "between 0 and 1"),
        ({"p_first": 0.5}, "record a tie"),
        ({"strength": 4}, "strength must be"),
        ({"key": ""}, "1 to 64 characters"),
        ({"key": "k" * 65}, "1 to 64 characters"),
        ({"comparison": 999}, "not in the store"),
        ({"annotator": 999}, "not in the store"),
        ({"verdict": "ranking"}, "needs that many ranks"),
        ({"verdict": "ranking", "meta": {"ranks": [0, 1]}}, "needs that many ranks"),
        ({"verdict": "ranking", "meta": {"ranks": [1, 2, 3]}}, "ranking of 2 sides"),
    ],
)
def test_labels_that_cannot_be(store, ask, answer, change, message):
    comparison = store.add_comparison(ask("q"), [answer("a"), answer("b")]).comparison_id
    ann = store.annotator("ann", "human")
    given = {"comparison": comparison, "annotator": ann, "key": "k"} | change
    with pytest.raises(LabelingError, match=message):
        store.add_label(verdict(**given))
    assert list(store.effective_labels()) == []


def test_three_sides_take_a_ranking(sqlite_store, ask, answer):
    sides = [answer("a"), answer("b"), answer("c")]
    comparison = sqlite_store.add_comparison(ask("q"), sides).comparison_id
    ann = sqlite_store.annotator("ann", "human")
    with pytest.raises(LabelingError, match="has 3 sides: record a ranking"):
        sqlite_store.add_label(verdict(comparison, ann, "k"))
    sqlite_store.add_label(verdict(comparison, ann, "k", verdict="both_bad"))


def work(url: str, worker: int) -> None:
    """One of several processes that open an empty database, add the same comparisons, in two orders, and label
    them under a name and keys of their own as well as under keys that all of them send."""
    store = Store.open(url)
    a, b = ([{"role": "assistant", "content": text}] for text in "ab")
    batch = [
        NewComparison([{"role": "user", "content": f"q{i}"}], [NewCompletion(a), NewCompletion(b)])
        for i in range(25)
    ]
    added = store.add_comparisons(batch[::-1] if worker % 2 else batch)
    own, shared = store.annotator(f"ann-{worker}", "human"), store.annotator("shared", "human")
    for item in added:
        store.add_label(verdict(item.comparison_id, own, f"{worker}-{item.comparison_id}"))
        store.add_label(verdict(item.comparison_id, shared, f"shared-{item.comparison_id}"))


def test_four_processes_lose_and_double_nothing(store_url):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(store_url, n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    store = Store.open(store_url)
    assert store.counts() == {
        "prompts": 25, "completions": 50, "comparisons": 25, "labels": 125, "labels.human": 125,
    }  # fmt: skip
    seen = sorted((label.annotator, label.comparison_id) for label in store.effective_labels())
    ids = [view.id for view in store.comparisons()]
    assert seen == sorted((name, i) for name in ("ann-0", "ann-1", "ann-2", "ann-3", "shared") for i in ids)


def test_completions_keep_who_made_them(store, ask, answer):
    made = NewCompletion(
        [{"role": "assistant", "content": "a"}], "policy", 7, "length", {"logprobs": [-0.5], "ids": [3]}
    )
    store.add_comparison(ask("q"), [made, answer("b")])
    with store.begin() as session:
        row = session.scalars(select(Completion).where(Completion.model == "policy")).one()
        assert (row.policy_version, row.finish_reason, row.meta) == (
            7,
            "length",
            {"logprobs": [-0.5], "ids": [3]},
        )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "in memory would be lost"),
        ("mysql://root@localhost/x", "not in mysql"),
        ("nonsense://x", "not in nonsense"),
        ("postgresql://u:hidden@127.0.0.1:1/x", r"cannot reach the store .*u:\*\*\*@127.0.0.1:1"),
    ],
)
def test_urls_that_are_no_store(url, message):
    with pytest.raises(LabelingError, match=message) as caught:
        Store.open(url)
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_store(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    with pytest.raises(LabelingError, match="not a database"):
        Store.open(str(tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_text().startswith("not a database")
    with pytest.raises(LabelingError, match="is a folder"):
        Store.open(str(tmp_path))
    with pytest.raises(LabelingError, match="no store at"):
        Store.open(str(tmp_path / "none.db"), create=False)
    assert not (tmp_path / "none.db").exists()
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE contacts (name)")
    with pytest.raises(LabelingError, match=r"another program .*contacts"):
        Store.open(str(tmp_path / "other.db"))
    Store.open(str(tmp_path / "new" / "folder" / "a%20b.db"))
    assert (tmp_path / "new" / "folder" / "a%20b.db").exists()


def test_a_store_of_a_newer_version_is_left_alone(store, store_url):
    with store.engine.begin() as connection:
        connection.execute(text(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(LabelingError, match=r"newer version of align .*9999.*upgrade align"):
        Store.open(store_url)


def test_a_missing_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LabelingError, match=r"align\[postgres\]"):
        Store.open("postgresql://localhost/x")


def test_a_full_disk_is_one_line_and_loses_nothing(sqlite_store, ask, answer):
    sqlite_store.add_comparison(ask("kept"), [answer("a"), answer("b")])
    with sqlite_store.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LabelingError, match="disk is full"):
        sqlite_store.add_comparison(ask("q" * 50_000), [answer("a"), answer("b")])
    assert sqlite_store.counts()["prompts"] == 1


def test_any_sqlite_tool_reads_the_tables(tmp_path, ask, answer):
    Store.open(str(tmp_path / "align.db")).add_comparison(ask("你好"), [answer("a"), answer("b")])
    with sqlite3.connect(tmp_path / "align.db") as connection:
        (messages,) = connection.execute("SELECT messages FROM prompt").fetchone()
    assert messages == '[{"role":"user","content":"你好"}]'


def test_labeling_imports_no_torch():
    code = (
        "import sys, labeling, labeling.store, labeling.snapshot, labeling.importers, labeling.agreement\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
