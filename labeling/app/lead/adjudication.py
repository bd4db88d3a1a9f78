"""Adjudication: the answers on which people disagree, without names; the lead's decision stands for all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gradio as gr

from labeling.app.answers import BOTH_BAD, on_scale
from labeling.app.form import LETTERS, hidden, untrusted
from labeling.app.lead.desk import Asking, Desk, Updates, heading, ours, table
from labeling.app.lead.talk import WORDS
from labeling.app.render import render_answer, render_conversation
from labeling.errors import LabelingError
from labeling.people import audit
from labeling.queue.adjudicate import Disagreement, adjudicate, disagreements
from labeling.queue.answers import Answer
from labeling.store import Store
from labeling.views import LabelView
from labeling.writes import MOST_SIDES

SHOWN = 50  # disagreements in the list


def lay_out(tab: gr.Tab, store: Store) -> None:
    desk = Desk.lay_out(store)
    heading(
        "Where people disagree",
        "Your decision stands for the labels of all people on the item. Theirs are kept.",
    )
    which = gr.Dropdown([], label="Item", value=None)
    number = hidden("decided-item")
    with gr.Column(visible=False) as work:
        said = ours()
        conversation = untrusted()
        with gr.Row(elem_classes="sides"):
            cards = [lay_out_side(letter) for letter in LETTERS[:MOST_SIDES]]
        steps = [(step, value) for value, step in enumerate(WORDS.scale, start=1)]
        scale = gr.Radio([*steps, (WORDS.both_bad, BOTH_BAD)], label=WORDS.which)
        order = gr.Textbox(
            label="The ranks, A first", info="for example 1 2 2: A is best, B and C tie", visible=False
        )
        remark = gr.Textbox(label="Why", max_lines=4)
        decide = gr.Button("Decide", variant="primary")

    def show(asking: Asking) -> Updates:
        found = disagreements(store, SHOWN)
        choices = [(f"{one.comparison.id}: {tally(one)}", one.comparison.id) for one in found]
        return {
            which: gr.update(choices=choices, value=choices[0][1] if choices else None),
            **(
                item(found[0])
                if found
                else {work: gr.update(visible=False), **desk.says("Nobody disagrees.")}
            ),
        }

    def open_(asking: Asking, chosen: int | None) -> Updates:
        one = next((one for one in disagreements(store, SHOWN) if one.comparison.id == chosen), None)
        if one is None:
            raise LabelingError("this one is decided already: open the tab again for the list as it is now")
        return item(one)

    def item(one: Disagreement) -> Updates:
        sides = one.comparison.sides
        pair = len(sides) == 2
        why = [(told(label), label.rationale) for label in one.labels]
        updates: Updates = {
            work: gr.update(visible=True),
            number: str(one.comparison.id),
            said: table("What people said", ("Answer", "Rationale"), why),
            conversation: render_conversation(one.comparison.prompt, WORDS.roles),
            scale: gr.update(value=None, visible=pair),
            order: gr.update(value="", visible=not pair),
            remark: "",
        }
        for place, (box, text) in enumerate(cards):
            there = place < len(sides)
            updates[box] = gr.update(visible=there)
            updates[text] = render_answer(sides[place][0], WORDS.roles) if there else ""
        return updates

    def decide_(asking: Asking, number_: str, step: Any, ranks: str, why: str) -> Updates:
        if not str(number_).isdecimal():
            raise LabelingError("choose an item first")
        answer = to_ranking(ranks, why or "") if ranks else on_scale(step, WORDS, rationale=why or "")
        label = adjudicate(store, int(number_), asking.id, answer)
        audit.record(
            store, asking.id, "item.adjudicate", number_, {"label": label, "verdict": answer.verdict}
        )
        return {**show(asking), **desk.says(f"Item {number_} is decided.")}

    parts = [
        work,
        number,
        said,
        conversation,
        scale,
        order,
        remark,
        *(part for card in cards for part in card),
    ]
    desk.on(tab.select, show, outputs=[which, *parts])
    desk.on(which.input, open_, [which], parts)
    desk.on(decide.click, decide_, [number, scale, order, remark], [which, *parts])


def lay_out_side(letter: str) -> tuple[gr.Column, gr.Markdown]:
    with gr.Column(visible=False, elem_classes="card", min_width=300) as box:
        heading(WORDS.answer.format(letter=letter))
        text = untrusted()
    return box, text


def tally(one: Disagreement) -> str:
    """For example "2 for A, 1 for B"."""
    counts = Counter(told(label).partition(",")[0] for label in one.labels)
    return ", ".join(f"{count} × {what}" for what, count in counts.most_common())


def told(label: LabelView) -> str:
    """A label in words, of the sides in the order in which the lead sees them."""
    if label.verdict == "ranking":
        return "ranks " + " ".join(map(str, label.meta["ranks"]))
    if label.verdict != "preference":
        return label.verdict.replace("_", " ")
    strength = ("", "slightly", "clearly", "much")[label.strength]
    return f"{'A' if label.p_first > 0.5 else 'B'} better" + (f", {strength}" if strength else "")


def to_ranking(ranks: str, rationale: str) -> Answer:
    try:
        return Answer(
            "ranking", ranks=[int(rank) for rank in ranks.replace(",", " ").split()], rationale=rationale
        )
    except ValueError:
        raise LabelingError("give a rank for each answer, for example 1 2 2") from None
