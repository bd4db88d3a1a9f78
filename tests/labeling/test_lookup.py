"""Finding items for the lead, on both databases."""

from __future__ import annotations

import pytest

from labeling.app.lead.lookup import (
    find_items,
    open_flags,
    read_gold_of,
    read_item,
    resolve_flags,
)
from labeling.errors import LabelingError
from labeling.queue.claim import claim
from labeling.queue.gold import set_gold
from labeling.queue.submit import flag
from labeling.views import NewLabel


def ids(rows) -> list[int]:
    return [row.id for row in rows]


def test_items_are_found_by_text_number_flag_and_gold(store, ask, answer):
    texts = ["plain", '50% of "é"\nnew line', "50x of it", "under_score", "a 2 b"]
    added = [store.add_comparison(ask(text), [answer("a"), answer("b")]).comparison_id for text in texts]
    assert ids(find_items(store, "")) == added
    assert ids(find_items(store, '50% of "é"\nnew')) == [added[1]]
    assert ids(find_items(store, "r_s")) == [added[3]]
    assert ids(find_items(store, str(added[1]))) == [added[1], added[4]]  # its number, and in a text
    assert ids(find_items(store, "9" * 30)) == []
    assert ids(find_items(store, "", added[2])) == added[3:]
    set_gold(store, added[0], "tie", 0.5, "equal")
    assert read_gold_of(store, added[0]) == ("tie", 0.5, "equal")
    assert ids(find_items(store, "", gold=True)) == [added[0]]
    ann = store.annotator("ann", "human")
    held = claim(store, ann)
    assert held is not None
    flag(store, held.token, ann, "cut off")
    flag(store, held.token, ann, "rude")
    (found,) = find_items(store, "", flagged=True)
    assert (found.id, found.flags, found.labels) == (held.comparison.id, 2, 0)
    assert open_flags(store, found.id) == [("ann", "cut off"), ("ann", "rude")]
    assert resolve_flags(store, found.id) == 2
    assert (find_items(store, "", flagged=True), resolve_flags(store, found.id)) == ([], 0)


def test_a_row_says_what_people_gave(store, ask, answer):
    one = store.add_comparison(ask("word " * 100), [answer("a"), answer("b")]).comparison_id
    ann, judge = store.annotator("ann", "human"), store.annotator("judge", "judge")
    old = store.add_label(NewLabel(one, ann, "tie", 0.5, [0, 1], "k1"))
    store.add_label(NewLabel(one, ann, "both_bad", 0.5, [0, 1], "k2", supersedes_id=old))
    store.add_label(NewLabel(one, judge, "tie", 0.5, [0, 1], "k3"))
    (row,) = find_items(store, "")
    assert (row.labels, row.gold, row.flags, len(row.preview)) == (1, False, 0, 160)
    assert row.preview.endswith("…")


@pytest.mark.parametrize("number", ["", "0", "-1", "two", "9" * 40, "1.0"])
def test_an_item_that_is_not_there_says_so(sqlite_store, number):
    with pytest.raises(LabelingError, match="there is no item"):
        read_item(sqlite_store, number)
