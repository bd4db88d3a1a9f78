"""The annotator's form: its components, laid out. Nothing here knows who is looking or at what."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import gradio as gr

from labeling.app.answers import BOTH_BAD
from labeling.app.render import LATEX_DELIMITERS
from labeling.app.texts import Texts
from labeling.writes import MOST_SIDES

LETTERS = "ABCDEFGHI"
MOST_ASPECTS = 6


@dataclass(frozen=True)
class Card:
    """One answer as shown, with its rank for when there are more than two."""

    box: gr.Column
    text: gr.Markdown
    rank: gr.Radio


@dataclass(frozen=True)
class Aspect:
    """How good each of two sides is in one respect."""

    row: gr.Row
    sides: tuple[gr.Radio, gr.Radio]


@dataclass(frozen=True)
class Form:
    token: gr.Textbox  # which assignment; checked against the person at every use
    key: gr.Textbox  # makes sending twice the same as sending once
    seconds: gr.Textbox  # filled by the page's script
    progress: gr.Markdown
    notice: gr.Markdown
    guidelines: gr.Accordion
    guidelines_text: gr.Markdown
    work: gr.Column  # everything about the item; away when there is none
    conversation: gr.Markdown
    opinion: gr.Markdown
    cards: tuple[Card, ...]
    scale: gr.Radio
    rank_hint: gr.Markdown
    all_bad: gr.Checkbox
    aspects_box: gr.Column
    aspects: tuple[Aspect, ...]
    rationale: gr.Textbox
    submit: gr.Button
    undo: gr.Button
    skip_box: gr.Accordion
    skip_reason: gr.Radio
    skip_note: gr.Textbox
    skip: gr.Button
    flag_box: gr.Accordion
    flag_note: gr.Textbox
    flag: gr.Button

    @property
    def components(self) -> list[gr.components.Component | gr.blocks.BlockContext]:
        """Everything that a new item changes."""
        cards = [part for card in self.cards for part in (card.box, card.text, card.rank)]
        aspects = [part for aspect in self.aspects for part in (aspect.row, *aspect.sides)]
        return [
            *(self.token, self.key, self.seconds, self.progress, self.notice),
            *(self.guidelines, self.guidelines_text, self.work, self.conversation, self.opinion),
            *cards,
            *(self.scale, self.rank_hint, self.all_bad, self.aspects_box),
            *aspects,
            *(self.rationale, self.skip_box, self.skip_reason, self.skip_note, self.flag_box, self.flag_note),
        ]

    @property
    def filled(self) -> list[gr.components.Component]:
        """What an answer is read from, in the order of `annotate.read_filled`."""
        return [
            *(self.scale, self.all_bad, self.rationale, self.seconds),
            *(card.rank for card in self.cards),
            *(radio for aspect in self.aspects for radio in aspect.sides),
        ]


def lay_out(texts: Texts) -> Form:
    """The form, inside the Blocks that are open."""
    with gr.Row(elem_id="bar"):
        progress = gr.Markdown(elem_id="progress")
    notice = gr.Markdown(elem_id="notice")
    with gr.Row(elem_id="drawers"):
        with gr.Accordion(texts.guidelines, open=False, elem_id="guidelines", visible=False) as guidelines:
            guidelines_text = untrusted()
        with gr.Accordion(texts.keys, open=False, elem_id="keys"):
            gr.Markdown(key_table(texts))
    with gr.Column(elem_id="work", visible=False) as work:
        conversation = untrusted(elem_id="conversation")
        opinion = gr.Markdown(visible=False, elem_id="opinion")
        with gr.Row(elem_id="answers"):
            cards = tuple(lay_out_card(place, texts) for place in range(MOST_SIDES))
        steps = [(step, value) for value, step in enumerate(texts.scale, start=1)]
        scale = gr.Radio([*steps, (texts.both_bad, BOTH_BAD)], label=texts.which, elem_id="scale")
        rank_hint = gr.Markdown(f"<p>{escape(texts.rank_hint)}</p>", visible=False, elem_id="rank-hint")
        all_bad = gr.Checkbox(label=texts.all_bad, visible=False, elem_id="all-bad")
        with gr.Column(visible=False, elem_id="aspects") as aspects_box:
            gr.Markdown(f"<h2>{escape(texts.aspects)}</h2>")
            aspects = tuple(lay_out_aspect() for _ in range(MOST_ASPECTS))
        rationale = gr.Textbox(
            label=texts.rationale, placeholder=texts.rationale_hint, lines=2, max_lines=8, elem_id="rationale"
        )
        with gr.Row(elem_id="actions"):
            submit = gr.Button(texts.submit, variant="primary", elem_id="submit")
    with gr.Row(elem_id="second-thoughts"):
        undo = gr.Button(texts.undo, elem_id="undo")
        with gr.Accordion(texts.skip, open=False, elem_id="skip", visible=False) as skip_box:
            reasons = [(shown, reason) for reason, shown in texts.skip_reasons.items()]
            skip_reason = gr.Radio(reasons, label=texts.skip_why)
            skip_note = gr.Textbox(label=texts.skip_note, max_lines=3)
            skip = gr.Button(texts.skip_confirm, elem_classes="confirm")
        with gr.Accordion(texts.flag, open=False, elem_id="flag", visible=False) as flag_box:
            flag_note = gr.Textbox(label=texts.flag_why, max_lines=3)
            flag = gr.Button(texts.flag_confirm, elem_classes="confirm")
    return Form(
        token=hidden("token"),
        key=hidden("key"),
        seconds=hidden("seconds"),
        progress=progress,
        notice=notice,
        guidelines=guidelines,
        guidelines_text=guidelines_text,
        work=work,
        conversation=conversation,
        opinion=opinion,
        cards=cards,
        scale=scale,
        rank_hint=rank_hint,
        all_bad=all_bad,
        aspects_box=aspects_box,
        aspects=aspects,
        rationale=rationale,
        submit=submit,
        undo=undo,
        skip_box=skip_box,
        skip_reason=skip_reason,
        skip_note=skip_note,
        skip=skip,
        flag_box=flag_box,
        flag_note=flag_note,
        flag=flag,
    )


def lay_out_card(place: int, texts: Texts) -> Card:
    letter = LETTERS[place]
    with gr.Column(visible=False, elem_classes="card", elem_id=f"card-{letter}", min_width=300) as box:
        gr.Markdown(f"<h2>{escape(texts.answer.format(letter=letter))}</h2>")
        text = untrusted()
        # all that there can be; with each item the page gets as many as it has answers
        ranks = [(str(rank), rank) for rank in range(1, MOST_SIDES + 1)]
        rank = gr.Radio(ranks, label=texts.rank.format(letter=letter), visible=False, elem_classes="rank")
    return Card(box, text, rank)


def lay_out_aspect() -> Aspect:
    with gr.Row(visible=False, elem_classes="aspect") as row:
        grades = [(str(grade), grade) for grade in range(1, 6)]
        sides = (gr.Radio(grades, label="A"), gr.Radio(grades, label="B"))
    return Aspect(row, sides)


def untrusted(elem_id: str | None = None) -> gr.Markdown:
    """Where text goes that somebody else wrote, after `labeling.app.render`."""
    return gr.Markdown(
        latex_delimiters=LATEX_DELIMITERS, sanitize_html=True, elem_classes="untrusted", elem_id=elem_id
    )


def hidden(elem_id: str) -> gr.Textbox:
    """Not a secret and not trusted: only out of sight."""
    return gr.Textbox(visible="hidden", elem_id=elem_id, label=elem_id)


def key_table(texts: Texts) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(what)}</dd>" for key, what in texts.key_help)
    return f"<dl>{rows}</dl>"
