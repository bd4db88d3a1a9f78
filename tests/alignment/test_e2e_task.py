"""The E2E task: the oracle by hand on small examples, and against the human references where they are there."""

from __future__ import annotations

import json

import pytest

from alignment.demo import e2e
from alignment.errors import AlignmentError

MR = "name[The Eagle], eatType[coffee shop], priceRange[less than £20], familyFriendly[no], near[Burger King]"
RIGHT = "The Eagle is a cheap coffee shop near Burger King. It is not family-friendly."


def figures(answer: str, mr: str = MR) -> dict[str, float]:
    return e2e.check(e2e.to_prompt(mr), answer)


def test_a_right_answer():
    assert figures(RIGHT) == {
        "success": 1, "complete": 1, "faithful": 1, "wellformed": 1, "coverage": 1, "quality": 0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "missing", "faithful", "wellformed", "quality"),
    [
        (RIGHT.replace(" near Burger King", ""), 1, 1, 1, -1),
        (RIGHT.replace("cheap ", ""), 1, 1, 1, -1),
        (RIGHT.replace("cheap", "expensive"), 1, 0, 1, -2),  # missing and told otherwise
        (RIGHT.replace("not ", ""), 1, 0, 1, -2),
        (RIGHT.replace("coffee", "Japanese coffee"), 0, 0, 1, -1),  # nobody asked for food
        (RIGHT.removesuffix("."), 0, 1, 0, -0.5),
        (RIGHT + " It is not family-friendly.", 0, 1, 0, -0.5),
        (RIGHT.replace("The Eagle", "Cotto"), 1, 1, 1, -1),
    ],
)
def test_faults_by_hand(answer, missing, faithful, wellformed, quality):
    got = figures(answer)
    assert got["coverage"] == 1 - missing / 5
    assert (got["faithful"], got["wellformed"], got["quality"]) == (faithful, wellformed, quality)
    assert got["success"] == 0


@pytest.mark.parametrize(
    ("value", "answer", "said"),
    [
        ("familyFriendly[yes]", "Kids are welcome.", 1),
        ("familyFriendly[yes]", "It isn't a place for kids.", 0),
        ("familyFriendly[no]", "Adults only.", 1),
        ("familyFriendly[no]", "A family place.", 0),
        ("priceRange[£20-25]", "Prices are £20 to £25.", 1),
        ("priceRange[more than £30]", "You pay over 30 pounds.", 1),
        ("customer rating[5 out of 5]", "It has five stars.", 1),
        ("customer rating[1 out of 5]", "It has five stars.", 0),
        ("area[city centre]", "It is in the center of the city.", 1),
        ("near[Café Brazil]", "It is close to Cafe Brazil.", 1),
        ("food[English]", "It serves British food.", 1),
    ],
)
def test_wordings(value, answer, said):
    assert figures(answer, value)["complete"] == said


def test_the_name_says_nothing_of_the_other_slots():
    assert figures("The River Cafe is here.", "name[The River Cafe], near[French Bistro]")["faithful"] == 1
    assert figures("The Golden Curry is here.", "name[The Golden Curry]")["faithful"] == 1


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.jsonl"
    rows = [{"mr": f"name[Place {i}], area[riverside]", "ref": f"Place {i} by the river."} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_splits_are_disjoint_and_follow_the_seed(small):
    task = e2e.E2ETask(small)
    train, test = task.prompts(60, 0, "train"), task.prompts(60, 0, "test")
    assert len(train) + len(test) == 60
    assert len(test) > 3
    learnt = [row["prompt"] for row in task.references(60, 0)]
    assert not any(prompt in test for prompt in train + learnt)
    assert task.prompts(5, 1, "train") == task.prompts(5, 1, "train") != task.prompts(5, 2, "train")
    assert task.references(5, 1) == task.references(5, 1) != task.references(5, 2)


def test_bad_input_names_the_place(small, tmp_path):
    with pytest.raises(AlignmentError, match="no E2E data at"):
        e2e.E2ETask(tmp_path / "none.jsonl").prompts(1, 0, "train")
    small.write_text(small.read_text() + '{"mr": "name[A]"}\n')
    with pytest.raises(AlignmentError, match="line 61"):
        e2e.E2ETask(small).prompts(1, 0, "train")
    with pytest.raises(AlignmentError, match="not a prompt of the E2E task"):
        e2e.check([{"role": "user", "content": "Say hello"}], "Hello!")


def test_how_the_oracle_rates_people(shared_data):
    """Facts re-annotated to fit the text must be found; the raw references leave facts out, as is known."""
    shares = {}
    for file in ("e2e_clean_dev.jsonl.gz", "e2e_dev.jsonl.gz"):
        rows = e2e.E2ETask(shared_data / file).rows
        checked = [figures(row["ref"], row["mr"]) for row in rows]
        shares[file] = {
            k: sum(c[k] for c in checked) / len(checked) for k in ("complete", "faithful", "coverage")
        }
    clean, raw = shares["e2e_clean_dev.jsonl.gz"], shares["e2e_dev.jsonl.gz"]
    assert clean["complete"] > 0.97
    assert clean["coverage"] > 0.99
    assert clean["faithful"] > 0.85
    assert 0.6 < raw["complete"] < 0.8
    assert raw["faithful"] > 0.9
