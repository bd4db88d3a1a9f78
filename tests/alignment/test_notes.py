"""The notes task: its oracle is exact, its splits are disjoint, its references have the mixed habits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.demo import notes
from alignment.demo.task import Task, prefers
from alignment.errors import AlignmentError

TASK: Task = notes
FACTS = {"name": "Heron", "kind": "cafe", "price": "cheap", "pets": "pets"}
PROMPT = notes.to_prompt(FACTS)
RIGHT = "Hello! The Heron is a cafe. It is cheap and it welcomes pets. See you soon!"


@st.composite
def some_facts(draw):
    slots = draw(st.lists(st.sampled_from(list(notes.CLAUSES)), unique=True, max_size=8))
    return {
        "name": draw(st.sampled_from(notes.NAMES)),
        "kind": draw(st.sampled_from(notes.KINDS)),
        **{slot: draw(st.sampled_from(list(notes.CLAUSES[slot]))) for slot in slots},
    }


seeds = st.integers(0, 2**32).map(random.Random)


@given(some_facts(), seeds)
def test_a_clean_note_is_right(facts, rng):
    figures = notes.check(notes.to_prompt(facts), notes.clean_note(facts, rng))
    assert figures == {
        "success": 1, "complete": 1, "faithful": 1, "polite": 1, "wellformed": 1, "quality": 0
    }  # fmt: skip


@given(some_facts().filter(lambda facts: len(facts) > 2), seeds)
def test_a_dropped_fact_is_one_fault(facts, rng):
    told = dict(facts)
    del told[rng.choice(list(facts)[2:])]
    figures = notes.check(notes.to_prompt(facts), notes.clean_note(told, rng))
    assert (figures["success"], figures["complete"], figures["faithful"]) == (0, 0, 1)
    assert figures["quality"] == -1


@given(some_facts().filter(lambda facts: len(facts) > 2), seeds)
def test_an_invented_fact_is_one_fault(told, rng):
    facts = dict(told)
    del facts[rng.choice(list(told)[2:])]
    figures = notes.check(notes.to_prompt(facts), notes.clean_note(told, rng))
    assert (figures["success"], figures["complete"], figures["faithful"]) == (0, 1, 0)
    assert figures["quality"] == -1


@given(some_facts(), seeds, st.sampled_from([(True, False), (False, True), (False, False)]))
def test_wanting_manners_are_half_a_fault_each(facts, rng, manners):
    greets, closes = manners
    figures = notes.check(notes.to_prompt(facts), notes.write(facts, rng, greets=greets, closes=closes))
    assert (figures["success"], figures["polite"], figures["complete"], figures["faithful"]) == (0, 0, 1, 1)
    assert figures["quality"] == -0.5 * (2 - greets - closes)


@given(some_facts(), seeds)
def test_a_fact_told_wrongly_is_missing_and_invented(facts, rng):
    told = facts | {"name": rng.choice([name for name in notes.NAMES if name != facts["name"]])}
    figures = notes.check(notes.to_prompt(facts), notes.clean_note(told, rng))
    assert (figures["complete"], figures["faithful"], figures["quality"]) == (0, 0, -2)


@given(st.text(max_size=80))
def test_any_text_is_judged_and_only_a_note_is_right(text):
    figures = notes.check(PROMPT, text)
    assert figures["success"] == 0
    assert figures["quality"] < 0


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        (RIGHT.removesuffix(" See you soon!") + " It is cheap. See you soon!", "wellformed"),  # told twice
        (RIGHT.replace("It is", "it is"), "success"),
        (RIGHT.replace("cheap and", "cheap and and"), "wellformed"),
        (RIGHT.replace("it welcomes pets", "it glows"), "wellformed"),
        (RIGHT[:-20], "wellformed"),  # cut off
        (RIGHT.replace("cheap", "pricey"), "faithful"),
        (RIGHT.removeprefix("Hello! "), "polite"),
        ("", "complete"),
    ],
)
def test_faults_by_hand(answer, key):
    assert notes.check(PROMPT, RIGHT)[key] == 1
    assert notes.check(PROMPT, answer)[key] == 0 or answer == RIGHT.replace("It is", "it is")
    if key != "success":
        assert notes.check(PROMPT, answer)["success"] == 0


def test_no_wording_stands_for_two_facts_and_none_hides_a_joint():
    wordings = [w for values in notes.CLAUSES.values() for w in values.values()]
    assert len(wordings) == len(set(wordings)) == len(notes.FACT_OF)
    assert not any(" and " in w or "." in w for w in wordings)


def test_splits_are_disjoint_and_follow_the_seed():
    train = {p[0]["content"] for p in notes.prompts(300, 0, "train")}
    test = {p[0]["content"] for seed in (0, 1) for p in notes.prompts(300, seed, "test")}
    learnt = {row["prompt"][0]["content"] for row in notes.references(1000, 0)}
    assert len(train) == 300
    assert not (train | learnt) & test
    assert notes.prompts(20, 5, "test") == notes.prompts(20, 5, "test") != notes.prompts(20, 6, "test")
    assert notes.references(20, 5) == notes.references(20, 5) != notes.references(20, 6)


def test_references_have_a_mixed_habit():
    rows = notes.references(2000, 0)
    checked = [notes.check(row["prompt"], row["completion"][0]["content"]) for row in rows]
    share = {key: sum(figures[key] for figures in checked) / len(checked) for key in checked[0]}
    assert share["wellformed"] == 1
    assert 0.15 < share["success"] < 0.30
    for key in ("complete", "faithful", "polite"):
        assert 0.35 < share[key] < 0.85


def test_preference_follows_quality():
    curt = RIGHT.removeprefix("Hello! ")
    assert prefers(TASK, PROMPT, RIGHT, curt) == 1
    assert prefers(TASK, PROMPT, curt, RIGHT) == 0
    assert prefers(TASK, PROMPT, RIGHT, RIGHT) == 0.5


def test_a_prompt_of_another_task_is_refused():
    with pytest.raises(AlignmentError, match="not a prompt of the notes task"):
        notes.check([{"role": "user", "content": "Say hello"}], "Hello!")
