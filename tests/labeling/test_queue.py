"""Handing out: to how many people, in which order, under which lease, with which sides first."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from labeling.errors import LabelingError
from labeling.queue.claim import claim, find_assignment
from labeling.queue.gold import gold_ids, remove_gold, set_gold
from labeling.queue.settings import QueueSettings, read_settings, save_settings
from labeling.queue.submit import Answer, skip, submit
from labeling.schema import Annotator, Comparison
from labeling.store import Store
from tests.labeling.queue_items import add_items, claimed, label_next, people, slots

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


def minutes(count: float) -> datetime:
    return START + timedelta(minutes=count)


def test_each_comparison_goes_to_as_many_people_as_wanted(store):
    items = add_items(store, 5)
    save_settings(store, QueueSettings(overlap=2))
    given: dict[int, set[int]] = defaultdict(set)
    for person in people(store, 4):
        while assigned := claim(store, person):
            assert person not in given[assigned.comparison.id]
            given[assigned.comparison.id].add(person)
            submit(store, assigned.token, person, Answer("tie"), key="k")
    assert {item: len(who) for item, who in given.items()} == dict.fromkeys(items, 2)
    assert set(slots(store).values()) == {0}


def test_nobody_gets_an_item_twice(store):
    items = add_items(store, 3)
    save_settings(store, QueueSettings(overlap=3))
    (ann,) = people(store, 1)
    seen = [label_next(store, ann)[0].comparison.id for _ in items]
    assert sorted(seen) == items
    assert claim(store, ann) is None


def test_the_open_lease_comes_back_and_is_renewed(store):
    add_items(store, 3)
    (ann,) = people(store, 1)
    first = claimed(store, ann, now=START)
    assert first.lease_until == minutes(30)
    again = claimed(store, ann, now=minutes(20))
    assert (again.token, again.shown_order, again.lease_until) == (
        first.token, first.shown_order, minutes(50),
    )  # fmt: skip
    assert claimed(store, ann, now=minutes(90)).token == first.token, "nobody else had wanted it"


def test_expired_leases_come_back(store):
    (item,) = add_items(store, 1)
    ann, ben = people(store, 2)
    held = claimed(store, ann, now=START)
    assert claim(store, ben, now=minutes(29)) is None
    assert claimed(store, ben, now=minutes(31)).comparison.id == item
    assert find_assignment(store, held.token, ann).state == "expired"
    assert slots(store) == {item: 0}


def test_an_expired_item_may_come_to_the_same_person_again(store):
    add_items(store, 1)
    ann, ben = people(store, 2)
    first = claimed(store, ann, now=START)
    skip(store, claimed(store, ben, now=minutes(31)).token, ben, "cannot judge")
    again = claimed(store, ann, now=minutes(32))
    assert (again.token, again.state) == (first.token, "leased")


def test_leases_do_not_last_longer_than_set(store):
    add_items(store, 1)
    save_settings(store, QueueSettings(lease_minutes=0.5))
    (ann,) = people(store, 1)
    assert claimed(store, ann, now=START).lease_until == minutes(0.5)


def test_priority_comes_first(store):
    low, high, middle = (add_items(store, 2, priority=p) for p in (0.0, 9.0, 1.5))
    (ann,) = people(store, 1)
    order = [label_next(store, ann)[0].comparison.id for _ in range(6)]
    assert [set(order[i : i + 2]) for i in (0, 2, 4)] == [set(high), set(middle), set(low)]


def rate(store, column: str, values: dict[int, float]) -> None:
    with store.begin() as session:
        for item, value in values.items():
            session.execute(update(Comparison).where(Comparison.id == item).values({column: value}))


@pytest.mark.parametrize(("policy", "column"), [("uncertainty", "uncertainty"), ("judge_doubt", "doubt")])
def test_the_policy_chooses_the_order_and_is_recorded(store, policy, column):
    a, b, c, unrated = add_items(store, 4)
    rate(store, column, {a: 0.2, b: 0.9, c: 0.0})
    save_settings(store, QueueSettings(policy=policy))
    (ann,) = people(store, 1)
    order = [label_next(store, ann)[0] for _ in range(4)]
    assert [one.comparison.id for one in order] == [b, a, c, unrated]
    assert {one.policy for one in order} == {policy}


def test_the_random_order_is_fixed_and_not_that_of_adding(store):
    items = add_items(store, 30)
    save_settings(store, QueueSettings(overlap=2))
    ann, ben = people(store, 2)
    anns = [label_next(store, ann)[0] for _ in items]
    bens = [label_next(store, ben)[0] for _ in items]
    assert [one.comparison.id for one in anns] == [one.comparison.id for one in bens]
    assert [one.comparison.id for one in anns] not in (items, items[::-1])
    assert {one.policy for one in anns} == {"random"}


def test_sides_are_shuffled_by_seed_and_balanced(sqlite_store):
    store = sqlite_store
    add_items(store, 200)
    save_settings(store, QueueSettings(overlap=2, seed=7))
    ann, ben = people(store, 2)
    orders = {
        person: {a.comparison.id: a.shown_order for a, _ in (label_next(store, person) for _ in range(200))}
        for person in (ann, ben)
    }
    for shown in orders.values():
        first = Counter(order[0] for order in shown.values())
        assert 70 <= first[0] <= 130  # 4 standard deviations of a fair coin
    differ = sum(orders[ann][item] != orders[ben][item] for item in orders[ann])
    assert 70 <= differ <= 130, "each person has an order of their own"


def test_the_same_seed_shows_the_same(tmp_path):
    shown = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        store = Store.open(str(tmp_path / name))
        add_items(store, 20, sides=4)
        save_settings(store, QueueSettings(seed=seed))
        (ann,) = people(store, 1)
        shown.append([label_next(store, ann, Answer("both_bad"))[0].shown_order for _ in range(20)])
        store.engine.dispose()
    assert shown[0] == shown[1] != shown[2]


def test_gold_comes_in_its_share_to_everybody(store):
    items = add_items(store, 60)
    for item in items[:20]:
        set_gold(store, item, "preference", 1.0, "obvious")
    save_settings(store, QueueSettings(gold_share=0.25, overlap=2))
    ann, ben = people(store, 2)
    seen = {}
    for person in (ann, ben):
        given = [label_next(store, person)[0] for _ in range(40)]
        seen[person] = [one.comparison.id for one in given if one.purpose == "gold"]
        assert 3 <= len(seen[person]) <= 18
        assert set(seen[person]) <= set(items[:20])
        assert len(set(seen[person])) == len(seen[person])
        assert {one.policy for one in given if one.purpose == "gold"} == {"gold"}
        assert not {one.comparison.id for one in given if one.purpose == "label"} & set(items[:20])
    assert set(seen[ann]) & set(seen[ben])


def test_gold_is_not_labelled_and_becomes_open_again(store):
    a, b = add_items(store, 2)
    set_gold(store, a, "tie", 0.5)
    assert (slots(store), gold_ids(store)) == ({a: 0, b: 1}, [a])
    remove_gold(store, a)
    assert (slots(store), gold_ids(store)) == ({a: 1, b: 1}, [])
    with pytest.raises(LabelingError, match="not in the store"):
        set_gold(store, 999, "tie", 0.5)
    with pytest.raises(LabelingError, match="cannot declare"):
        set_gold(store, b, "preference", 0.5)


def test_repeats_come_once_and_only_after_so_many_labels(store):
    add_items(store, 40)
    save_settings(store, QueueSettings(repeat_share=0.5, repeat_after=5))
    (ann,) = people(store, 1)
    given = [label_next(store, ann)[0] for _ in range(50)]
    places: dict[int, list[int]] = defaultdict(list)
    for place, one in enumerate(given):
        places[one.comparison.id].append(place)
        assert one.purpose == ("repeat" if len(places[one.comparison.id]) == 2 else "label")
    repeated = [where for where in places.values() if len(where) > 1]
    assert 10 <= len(repeated) <= 30
    assert {len(where) for where in repeated} == {2}
    assert min(second - first for first, second in repeated) > 5
    assert len(slots(store)) == 40
    assert sum(slots(store).values()) == 40 - len(places), "a repeat takes no slot"


def test_the_draws_repeat_with_the_seed(tmp_path):
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        store = Store.open(str(tmp_path / name))
        for item in add_items(store, 30)[:10]:
            set_gold(store, item, "tie", 0.5)
        save_settings(store, QueueSettings(seed=seed, gold_share=0.2, repeat_share=0.2, repeat_after=2))
        (ann,) = people(store, 1)
        runs.append([(a.purpose, a.comparison.id) for a, _ in (label_next(store, ann) for _ in range(18))])
        store.engine.dispose()
    assert runs[0] == runs[1] != runs[2]


def test_the_arm_of_the_experiment_is_drawn_and_recorded(sqlite_store):
    add_items(sqlite_store, 60)
    save_settings(sqlite_store, QueueSettings(show_ai_share=0.5))
    (ann,) = people(sqlite_store, 1)
    arms = Counter(label_next(sqlite_store, ann)[0].arm for _ in range(60))
    assert set(arms) == {"", "ai-shown"}
    assert 15 <= arms["ai-shown"] <= 45


def test_who_may_not_label_gets_nothing(store):
    add_items(store, 1)
    (ann,) = people(store, 1)
    with store.begin() as session:
        session.execute(update(Annotator).where(Annotator.id == ann).values(active=False))
    for nobody in (ann, 999):
        with pytest.raises(LabelingError, match="does not label"):
            claim(store, nobody)


def test_settings_are_kept_and_checked(store):
    assert read_settings(store) == QueueSettings()
    settings = QueueSettings(overlap=3, aspects=["helpful"], guidelines="# Be kind")
    save_settings(store, settings)
    assert read_settings(store) == settings
    for wrong in (
        {"overlap": 0},
        {"gold_share": 0.6, "repeat_share": 0.6},
        {"policy": "best"},
        {"ovrlap": 1},
    ):
        with pytest.raises(ValueError, match="validation error"):
            QueueSettings.model_validate(wrong)
