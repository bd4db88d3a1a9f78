"""Processes label while others are killed with -9: every item ends with its labels, none lost, none doubled."""

from __future__ import annotations

import pytest

from benchmarks.labeling_race import Race, race


@pytest.mark.timeout(240)
def test_no_label_is_lost_or_doubled_when_processes_are_killed(store_url):
    setting = Race(items=100, overlap=3, processes=5, kill_every=0.8, lease=1.5)
    figures = race(store_url, setting)
    assert figures["labels"] == 300
    assert (figures["complete"], figures["lost"], figures["doubled"]) == (100, 0, 0)
    assert figures["kills"] >= 2
    assert figures["annotators"] >= 5
