"""Taking in: answers as shown become labels as stored; sent twice, too late, corrected, skipped, flagged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from labeling.errors import LabelingError
from labeling.queue.adjudicate import adjudicate, disagreements
from labeling.queue.answers import as_label
from labeling.queue.claim import claim, find_assignment
from labeling.queue.progress import progress
from labeling.queue.settings import QueueSettings, save_settings
from labeling.queue.submit import Answer, flag, skip, submit, undo
from labeling.schema import Flag, Label
from tests.labeling.queue_items import FIRST_SHOWN, add_items, claimed, label_next, people, slots

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATER = START + timedelta(hours=1)


def labels(store) -> list[Label]:
    """Every label, also those that are superseded, by id."""
    with store.begin() as session:
        rows = list(session.scalars(select(Label).order_by(Label.id)))
        session.expunge_all()
    return rows


@pytest.mark.parametrize("sides", [2, 5, 9])
def test_an_answer_is_recorded_as_stored(store, sides):
    add_items(store, 10, sides)
    (ann,) = people(store, 1)
    for _ in range(10):
        assigned = claimed(store, ann)
        letters = [assigned.comparison.sides[position][0][0]["content"] for position in assigned.shown_order]
        if sides == 2:  # the annotator likes B
            answer = Answer("preference", choice=letters.index("B"), strength=3, seconds=4.5)
        else:  # the later in the alphabet the better; I and H alike
            answer = Answer("ranking", ranks=[max(1, 8 - "ABCDEFGHI".index(one)) for one in letters])
        submit(store, assigned.token, ann, answer, key="k")
    for label in labels(store):
        assert (label.purpose, label.annotator_id) == ("label", ann)
        if sides == 2:
            assert (label.p_first, label.strength, label.seconds) == (0.0, 3, 4.5)
        else:
            assert label.meta["ranks"] == [8, 7, 6, 5, 4, 3, 2, 1, 1][:sides]
    assert len({tuple(label.shown_order) for label in labels(store)}) > 1


@given(st.integers(2, 9).flatmap(lambda k: st.tuples(st.permutations(range(k)), st.data())))
def test_mapping_back_undoes_the_shuffle(case):
    order, data = case
    stored_ranks = data.draw(st.lists(st.integers(1, len(order)), min_size=len(order), max_size=len(order)))
    shown_ranks = [stored_ranks[position] for position in order]
    choice = data.draw(st.integers(0, len(order) - 1))
    names = {"comparison_id": 1, "annotator_id": 1, "key": "k", "purpose": "label"}
    ranking = as_label(Answer("ranking", ranks=shown_ranks), order, **names)
    assert ranking.meta["ranks"] == stored_ranks
    graded = as_label(Answer("tie", aspects={"helpful": shown_ranks}), order, **names)
    assert (graded.meta["aspects"], graded.p_first) == ({"helpful": stored_ranks}, 0.5)
    preferred = as_label(Answer("preference", choice=choice), order, **names)
    assert preferred.p_first == (1.0 if order[choice] == 0 else 0.0)


def test_sending_again_gives_the_same_label(store):
    add_items(store, 2)
    (ann,) = people(store, 1)
    assigned = claimed(store, ann)
    first = submit(store, assigned.token, ann, FIRST_SHOWN, key="k")
    assert submit(store, assigned.token, ann, Answer("tie"), key="k") == first
    with pytest.raises(LabelingError, match="already answered; undo"):
        submit(store, assigned.token, ann, FIRST_SHOWN, key="from another tab")
    assert len(labels(store)) == 1
    _, second = label_next(store, ann)  # the same key for another item is another label
    assert second.label_id != first.label_id


def test_another_persons_token_is_refused(store):
    add_items(store, 2)
    ann, ben = people(store, 2)
    assigned = claimed(store, ann)
    for action in (
        lambda token: find_assignment(store, token, ben),
        lambda token: submit(store, token, ben, FIRST_SHOWN, key="k"),
        lambda token: skip(store, token, ben, "x"),
        lambda token: flag(store, token, ben, "x"),
    ):
        for token in (assigned.token, "guessed"):
            with pytest.raises(LabelingError, match="not yours"):
                action(token)
    assert find_assignment(store, assigned.token, ann).state == "leased"
    assert labels(store) == []


def test_tokens_tell_nothing(store):
    add_items(store, 3)
    ann, ben = people(store, 2)
    tokens = [label_next(store, person)[0].token for person in (ann, ann, ben)]
    assert len(set(tokens)) == 3
    assert {len(token) for token in tokens} == {43}  # 32 random bytes


def test_late_answers_are_kept_and_not_counted(store):
    (item,) = add_items(store, 1)
    ann, ben = people(store, 2)
    slow = claimed(store, ann, now=START)
    quick = claimed(store, ben, now=LATER)
    submit(store, quick.token, ben, FIRST_SHOWN, key="k")
    done = submit(store, slow.token, ann, FIRST_SHOWN, key="k")
    assert done.late
    assert submit(store, slow.token, ann, FIRST_SHOWN, key="k") == done
    assert [label.purpose for label in labels(store)] == ["label", "late"]
    save_settings(store, QueueSettings(overlap=2))
    assert slots(store) == {item: 1}, "a late label fills no slot"
    assert claim(store, ann) is None, "and its author is not asked again"


def test_a_lease_that_ran_out_takes_a_slot_that_is_left(store):
    add_items(store, 2)
    save_settings(store, QueueSettings(overlap=2))
    ann, ben = people(store, 2)
    slow = claimed(store, ann, now=START)
    claimed(store, ben, now=LATER)  # takes back what ran out
    assert find_assignment(store, slow.token, ann).state == "expired"
    assert not submit(store, slow.token, ann, FIRST_SHOWN, key="k").late
    assert find_assignment(store, slow.token, ann).state == "submitted"
    assert sum(slots(store).values()) == 2


def test_an_answer_before_anybody_noticed_is_not_late(store):
    add_items(store, 1)
    (ann,) = people(store, 1)
    slow = claimed(store, ann, now=datetime.now(UTC) - timedelta(days=1))
    assert not submit(store, slow.token, ann, FIRST_SHOWN, key="k").late


def test_undo_supersedes_and_history_stays(store):
    add_items(store, 1)
    (ann,) = people(store, 1)
    assigned, _ = label_next(store, ann, Answer("preference", choice=0, strength=1, rationale="hasty"))
    reopened = undo(store, ann)
    assert (reopened.token, reopened.state) == (assigned.token, "leased")
    assert [label.verdict for label in store.effective_labels()] == ["preference"], "it stands until then"
    done = submit(store, reopened.token, ann, Answer("tie", rationale="on reflection"), key="second")
    assert not done.late
    old, new = labels(store)
    assert (old.rationale, new.rationale, new.supersedes_id) == ("hasty", "on reflection", old.id)
    assert [label.rationale for label in store.effective_labels()] == ["on reflection"]
    assert set(slots(store).values()) == {0}


def test_undo_goes_back_step_by_step_and_then_forward(store):
    add_items(store, 4)
    (ann,) = people(store, 1)
    assert undo(store, ann) is None
    first, second = (label_next(store, ann)[0] for _ in range(2))
    third = claimed(store, ann)
    assert [undo(store, ann).token, undo(store, ann).token] == [second.token, first.token]
    assert undo(store, ann) is None
    order = []
    for key in ("x", "y", "z"):
        assigned = claimed(store, ann)
        order.append(assigned.token)
        submit(store, assigned.token, ann, Answer("tie"), key=key)
    assert order == [first.token, second.token, third.token]
    assert len(labels(store)) == 5


def test_an_undo_that_came_to_nothing_leaves_the_label(store):
    (item,) = add_items(store, 1)
    ann, ben = people(store, 2)
    assigned, _ = label_next(store, ann)
    undo(store, ann, now=START)
    assert claim(store, ben, now=LATER) is None
    assert find_assignment(store, assigned.token, ann).state == "submitted"
    assert slots(store) == {item: 0}
    undo(store, ann)
    skip(store, assigned.token, ann, "changed my mind")
    assert find_assignment(store, assigned.token, ann).state == "submitted"
    assert (len(labels(store)), slots(store)) == (1, {item: 0})


def test_skipping_frees_the_slot_for_others(store):
    (item,) = add_items(store, 1)
    ann, ben = people(store, 2)
    skipped = claimed(store, ann)
    skip(store, skipped.token, ann, "not my language\x00")
    skip(store, skipped.token, ann, "pressed twice")
    assert slots(store) == {item: 1}
    assert claim(store, ann) is None
    assert label_next(store, ben)[0].comparison.id == item
    with pytest.raises(LabelingError, match="you skipped"):
        submit(store, skipped.token, ann, FIRST_SHOWN, key="k")
    answered = find_assignment(store, claimed_token(store, ben), ben)
    with pytest.raises(LabelingError, match="already answered"):
        skip(store, answered.token, ben, "x")


def claimed_token(store, annotator: int) -> str:
    reopened = undo(store, annotator)
    submit(store, reopened.token, annotator, FIRST_SHOWN, key="again")
    return reopened.token


def test_a_flag_is_recorded_and_the_item_stays_open(store):
    (item,) = add_items(store, 1)
    (ann,) = people(store, 1)
    assigned = claimed(store, ann)
    flag(store, assigned.token, ann, "leaks a phone number\x00")
    with store.begin() as session:
        (row,) = session.scalars(select(Flag))
        assert (row.comparison_id, row.annotator_id, row.resolved_at) == (item, ann, None)
        assert row.reason == "leaks a phone number\ufffd"
    assert claimed(store, ann).token == assigned.token


@pytest.mark.parametrize(
    ("sides", "answer", "says"),
    [
        (2, Answer("preference", choice=None), "names the better side"),
        (2, Answer("preference", choice=2), "names the better side"),
        (2, Answer("preference", choice=-1), "names the better side"),
        (2, Answer("preference", choice=0, strength=4), "strength must be"),
        (2, Answer("best", choice=0), "unknown verdict"),
        (2, Answer("tie", aspects={"helpful": [1, 6]}), "each aspect"),
        (2, Answer("tie", aspects={"helpful": [1]}), "each aspect"),
        (2, Answer("preference", choice=0, strength=1, rationale=" "), "rationale"),
        (3, Answer("preference", choice=0, strength=3), "record a ranking"),
        (3, Answer("ranking", ranks=[1, 2]), "ranking of 3"),
        (3, Answer("ranking", ranks=[0, 1, 2]), "ranking of 3"),
    ],
)  # fmt: skip
def test_answers_that_do_not_fit_are_refused(sqlite_store, sides, answer, says):
    add_items(sqlite_store, 1, sides)
    save_settings(sqlite_store, QueueSettings(rationale_below=1))
    (ann,) = people(sqlite_store, 1)
    assigned = claimed(sqlite_store, ann)
    with pytest.raises(LabelingError, match=says):
        submit(sqlite_store, assigned.token, ann, answer, key="k")
    assert find_assignment(sqlite_store, assigned.token, ann).state == "leased"
    assert labels(sqlite_store) == []


def test_impossible_times_are_not_kept(sqlite_store):
    add_items(sqlite_store, 3)
    (ann,) = people(sqlite_store, 1)
    for seconds in (float("nan"), float("inf"), -1.0):
        label_next(sqlite_store, ann, Answer("tie", seconds=seconds))
    assert [label.seconds for label in labels(sqlite_store)] == [None] * 3


def test_progress(store):
    add_items(store, 5)
    save_settings(store, QueueSettings(overlap=2))
    ann, ben = people(store, 2)
    for seconds in (10.0, 20.0, 90.0):
        label_next(store, ann, Answer("tie", seconds=seconds))
    label_next(store, ben)
    undo(store, ann)
    submit(store, claimed(store, ann).token, ann, Answer("tie", seconds=30.0), key="corrected")
    skip(store, claimed(store, ann).token, ann, "x")
    now = progress(store, ann)
    assert (now.today, now.left_for_me, now.total) == (3, 1, 4)
    assert now.seconds_per_item == 25.0  # of 10, 20, 30 and 90
    assert now.by_state == {"submitted": 3, "skipped": 1}
    assert progress(store, ann, now=datetime.now(UTC) + timedelta(days=1)).today == 0
    claimed(store, ann)
    assert progress(store, ann).left_for_me == 1, "what is in hand is left, too"


def test_a_long_queue_is_estimated(store, monkeypatch):
    monkeypatch.setattr("labeling.queue.progress.COUNTED", 3)
    add_items(store, 6)
    ann, _ = people(store, 2)
    label_next(store, ann)
    assert progress(store, ann).left_for_me == 5
    label_next(store, ann)
    assert progress(store, ann).left_for_me == 5, "remembered for a minute"
    label_next(store, ann)
    assert progress(store, ann).left_for_me == 3, "counted"


def test_disagreements_are_decided_by_a_lead(store):
    agreed, split, ranked = *add_items(store, 2), *add_items(store, 1, 3)
    save_settings(store, QueueSettings(overlap=2))
    ann, ben, lead, other = people(store, 4)
    for person in (ann, ben):
        for _ in range(3):
            item = claimed(store, person)
            if item.comparison.id == agreed:  # as strongly as they like
                best = item.shown_order.index(0)
                answer = Answer("preference", choice=best, strength=1 if person == ann else 3)
            elif item.comparison.id == split:
                answer = Answer("preference", choice=item.shown_order.index(person == ann))
            else:
                answer = Answer("ranking", ranks=[1, 1, 2] if person == ann else [1, 2, 2])
            submit(store, item.token, person, answer, key="k")
    found = disagreements(store, 10)
    assert [one.comparison.id for one in found] == [split, ranked]
    assert [label.annotator_id for label in found[0].labels] == [ann, ben]
    assert len(disagreements(store, 1)) == 1
    first = adjudicate(store, split, lead, Answer("preference", choice=1, strength=2))
    assert [one.comparison.id for one in disagreements(store, 10)] == [ranked]
    second = adjudicate(store, split, other, Answer("tie"))
    history = {label.id: label for label in labels(store) if label.purpose == "adjudicate"}
    assert (history[first].p_first, history[second].supersedes_id) == (0.0, first)
    with pytest.raises(LabelingError, match="not in the store"):
        adjudicate(store, 999, lead, Answer("tie"))
    assert slots(store)[split] == 0
