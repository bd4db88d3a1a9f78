"""How many more people are wanted: counted for what is added, labelled elsewhere, migrated; found by an index."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.command import upgrade
from sqlalchemy import insert, select, text

from labeling.database import make_engine, parse
from labeling.judge.judgements import Judged, record
from labeling.judge.verdict import Verdict
from labeling.migrations import config
from labeling.queue.claim import claim, next_open
from labeling.queue.gold import set_gold
from labeling.queue.settings import QueueSettings, save_settings
from labeling.queue.slots import shuffle_of
from labeling.queue.submit import Answer, skip, submit, undo
from labeling.schema import Assignment, Comparison, Label, Prompt
from labeling.store import Store
from labeling.views import NewLabel
from tests.labeling.queue_items import add_items, claimed, label_next, people, slots


def test_new_comparisons_get_the_overlap_in_force_and_a_place(store):
    (early,) = add_items(store, 1)
    save_settings(store, QueueSettings(overlap=3))
    (late,) = add_items(store, 1)
    assert slots(store) == {early: 3, late: 3}
    with store.begin() as session:
        rows = session.execute(select(Comparison.key, Comparison.shuffle)).all()
    assert all(shuffle == shuffle_of(key) for key, shuffle in rows)
    assert len({shuffle for _, shuffle in rows}) == 2


def test_another_overlap_counts_anew(store):
    _, held, labelled, twice, gold = items = add_items(store, 5)
    save_settings(store, QueueSettings(overlap=2))
    set_gold(store, gold, "tie", 0.5)
    ann, ben = people(store, 2)
    for person, mine in ((ann, [labelled, twice]), (ben, [twice])):
        for item in mine:
            store.add_label(NewLabel(item, person, "tie", 0.5, [0, 1], f"{person}-{item}"))
    place(store, held, ann)
    for overlap, wanted in ((3, [3, 2, 2, 1, 0]), (1, [1, 0, 0, 0, 0]), (2, [2, 1, 1, 0, 0])):
        save_settings(store, QueueSettings(overlap=overlap))
        assert [slots(store)[item] for item in items] == wanted, overlap


def place(store: Store, item: int, annotator: int) -> None:
    """Let the annotator hold the item."""
    with store.begin() as session:
        session.query(Comparison).filter(Comparison.id == item).update({"priority": 9.0})
    assert claimed(store, annotator).comparison.id == item


def test_labels_added_directly_fill_slots(store):
    items = add_items(store, 3)
    save_settings(store, QueueSettings(overlap=2))
    ann, _ = people(store, 2)
    scripts = [store.annotator(f"scripted-{i}", "scripted") for i in range(3)]
    judge, source = store.annotator("judge", "judge"), store.annotator("file", "import")

    def label(item: int, annotator: int, number: int = 0, **more) -> NewLabel:
        return NewLabel(item, annotator, "tie", 0.5, [0, 1], f"{item}-{annotator}-{number}", **more)

    a, b, c = items
    store.add_labels([label(a, judge), label(a, source)])
    assert slots(store) == {a: 2, b: 2, c: 2}
    [first] = store.add_labels([label(a, scripts[0])])
    store.add_labels([label(a, scripts[0])])  # again
    store.add_labels([label(a, scripts[0], 1, supersedes_id=first)])
    assert slots(store) == {a: 1, b: 2, c: 2}, "a person fills one slot, however often they label"
    store.add_labels([label(b, one) for one in scripts])
    assert slots(store) == {a: 1, b: 0, c: 2}, "never below 0"
    store.add_labels([label(a, ann)])
    given = label_next(store, ann)[0].comparison.id
    assert (given, claim(store, ann)) == (c, None), "what one labelled directly does not come again"


def test_a_judge_leaves_its_doubt(store):
    items = add_items(store, 5)
    judge = store.annotator("judge", "judge")
    verdicts = [
        Verdict("verdict", 0.9, True, confidence=0.9), Verdict("verdict", 0.25, True, confidence=0.75),
        Verdict("tie", 0.5, True, confidence=0.5), Verdict("verdict", 0.6, False, confidence=0.6),
        Verdict("refused", reason="no"),
    ]  # fmt: skip
    judged = [
        Judged(item, judge, verdict, shown_order=[(0, 1), (1, 0)], call_keys=[str(number)])
        for number, (item, verdict) in enumerate(zip(items, verdicts, strict=True))
    ]
    with store.begin() as session:
        record(session, judged)
    with store.begin() as session:
        doubts = session.scalars(select(Comparison.doubt).order_by(Comparison.id)).all()
    assert doubts == pytest.approx([0.2, 0.5, 1.0, 1.0, 1.0])


def test_an_old_store_is_migrated_with_its_labels(store_url):
    """Rows as version 0001 wrote them: raw SQL, since today's code knows only today's tables."""
    engine = make_engine(parse(store_url))
    keys = ["00000001" + "a" * 56, "ffffffff" + "b" * 56, "7fffffff" + "c" * 56]
    with engine.execution_options(writes=True).begin() as connection:
        upgrade(config(connection), "0001")
        now = "'2026-01-01 00:00:00'"
        run = lambda statement: connection.execute(text(statement))  # noqa: E731
        run(f"INSERT INTO prompt VALUES (1, 'h', '[]', '{{}}', {now})")
        for number, key in enumerate(keys, start=1):
            run(
                "INSERT INTO comparison (id, key, prompt_id, origin, priority, created_at) "
                f"VALUES ({number}, '{key}', 1, 'import', 0, {now})"
            )
        for number, kind in enumerate(("human", "judge"), start=1):
            run(
                "INSERT INTO annotator (id, name, kind, active, meta, created_at) "
                f"VALUES ({number}, '{kind}', '{kind}', '1', '{{}}', {now})"
            )
            run(
                "INSERT INTO label (id, comparison_id, annotator_id, verdict, p_first, strength, shown_order, "
                f"rationale, meta, idempotency_key, created_at) VALUES ({number}, {number}, {number}, 'tie', "
                f"0.5, 0, '[0,1]', '', '{{}}', 'k{number}', {now})"
            )
        run(
            "INSERT INTO judgement (id, comparison_id, annotator_id, outcome, p_first, order_consistent, "
            f"reason, call_keys, label_id, created_at) VALUES (1, 2, 2, 'verdict', 0.75, '1', '', '[]', 2, {now})"
        )
        run(
            "INSERT INTO assignment (id, comparison_id, annotator_id, shown_order, state, policy, lease_until, "
            f"created_at) VALUES (7, 3, 1, '[1,0]', 'skipped', 'random', {now}, {now})"
        )
    engine.dispose()
    store = Store.open(store_url)
    with store.begin() as session:
        rows = session.execute(
            select(Comparison.slots_left, Comparison.shuffle, Comparison.doubt).order_by(Comparison.id)
        ).all()
        assert [tuple(row) for row in rows] == [
            (0, shuffle_of(keys[0]), None), (1, shuffle_of(keys[1]), 0.5), (1, shuffle_of(keys[2]), None),
        ]  # fmt: skip
        assert session.scalars(select(Label.purpose)).all() == ["label", "label"]
        kept = session.scalars(select(Assignment)).one()
        assert (kept.id, kept.token, kept.round, kept.purpose, kept.reason) == (7, "7", 0, "label", "")
    save_settings(store, QueueSettings(overlap=2))
    assert slots(store) == {1: 1, 2: 2, 3: 2}
    store.engine.dispose()


def add_rows(store: Store, count: int) -> None:
    """Comparisons without sides, fast."""
    with store.begin() as session:
        session.add(Prompt(id=1, hash="h", messages=[]))
        session.flush()
        rows = [
            {"id": i, "key": str(i), "prompt_id": 1, "shuffle": (i * 7919) % 2**31, "slots_left": i % 2}
            for i in range(1, count + 1)
        ]
        session.execute(insert(Comparison.__table__), rows)
        session.execute(text("ANALYZE"))


@pytest.mark.parametrize(
    ("policy", "index"),
    [
        ("random", "ix_comparison_open"),
        ("uncertainty", "ix_comparison_open_uncertainty"),
        ("judge_doubt", "ix_comparison_open_doubt"),
    ],
)
def test_the_next_item_is_found_by_the_partial_index(store, policy, index):
    add_rows(store, 3000)
    dialect = store.engine.dialect
    query = next_open(1, policy).compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN " if dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
    with store.engine.connect() as connection:
        plan = [str(row) for row in connection.execute(text(explain + str(query)))]
    used = {word for line in plan for word in line.replace("'", " ").replace(")", " ").split()}
    assert index in used, plan
    assert not any("Sort" in line or "TEMP B-TREE" in line for line in plan), plan


@pytest.mark.parametrize("seed", range(2))
def test_threads_do_not_break_the_count(store, seed):
    """Claims, answers, skips, undos and another overlap, all at once."""
    items = add_items(store, 12)
    save_settings(store, QueueSettings(overlap=2))
    everybody = people(store, 6)

    def work(person: int) -> None:
        for number in range(10):
            assigned = claim(store, person)
            if assigned is None:
                continue
            if (number + person + seed) % 4 == 0:
                skip(store, assigned.token, person, "x")
            else:
                submit(store, assigned.token, person, Answer("tie"), key=str(number))
            if number == 3 and undo(store, person):
                submit(store, claimed(store, person).token, person, Answer("both_bad"), key="undone")

    with ThreadPoolExecutor(len(everybody) + 1) as threads:
        working = [threads.submit(work, person) for person in everybody]
        working.append(threads.submit(save_settings, store, QueueSettings(overlap=3)))
        for one in working:
            one.result(120)
    labels = list(store.effective_labels())
    assert len({(label.comparison_id, label.annotator_id) for label in labels}) == len(labels)
    per_item = Counter(label.comparison_id for label in labels)
    assert max(per_item.values()) <= 3
    assert slots(store) == {item: 3 - per_item[item] for item in items}


def test_two_tabs_of_one_person_get_the_same_item(store):
    add_items(store, 5)
    (ann,) = people(store, 1)
    with ThreadPoolExecutor(8) as threads:
        tokens = {one.token for one in threads.map(lambda _: claimed(store, ann), range(16))}
        (token,) = tokens
        answers = list(
            threads.map(lambda _: submit(store, token, ann, Answer("tie"), key="pressed twice"), range(8))
        )
    assert len(set(answers)) == 1
    assert len(list(store.effective_labels())) == 1
