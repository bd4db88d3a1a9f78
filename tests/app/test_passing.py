"""What the annotator's page is answered: every update as the handler gave it, and nothing that a session remembers."""

from __future__ import annotations

import gradio as gr
import pytest

from labeling.app.passing import passed
from labeling.queue.claim import claim
from tests.app.site import comparison
from tests.app.test_server import press


@pytest.mark.parametrize(
    ("component", "update", "told"),
    [
        (gr.Markdown, "<p>x</p>", "<p>x</p>"),
        (gr.Textbox, None, None),
        (gr.Textbox, gr.update(value=7, label="n"), {"__type__": "update", "value": "7", "label": "n"}),
        (
            gr.Radio,
            gr.update(visible=False, value=None),
            {"__type__": "update", "visible": False, "value": None},
        ),
        (gr.Column, gr.update(visible=True), {"__type__": "update", "visible": True}),
    ],
)
def test_updates_are_passed_as_they_are(component, update, told):
    assert passed(component(), update) == told


def test_a_ranking_is_taken_from_a_page_that_the_server_does_not_know(make_site):
    """As after a restart: the choices that the page was given are on the page only."""
    site = make_site([comparison("Question", "one", "two", "three", "four")])
    mei = site.person("mei")
    token = claim(site.store, mei.id).token
    ranks = [2, 1, 3, 3, *[None] * 5]
    told = press(site.client(mei), "submit", token, "k", None, False, "", "1.5", *ranks, *[None] * 12)
    assert "Saved" in told.text
    [label] = site.labels()
    assert sorted(label.meta["ranks"]) == [1, 2, 3, 3]


def test_what_is_not_updated_is_left_alone(make_site):
    site = make_site([comparison("Question", "one", "two")])
    mei = site.person("mei")
    token, *others = press(site.client(mei), "flag", claim(site.store, mei.id).token, "odd").json()["data"]
    assert token == {"__type__": "update"}
    assert sum(one != {"__type__": "update"} for one in others) == 3  # the notice, the drawer and its text
