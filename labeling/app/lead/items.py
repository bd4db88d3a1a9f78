"""Items: find a comparison, read it, declare its right answer, settle what annotators said was wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from labeling.app.form import hidden, untrusted
from labeling.app.lead.desk import Asking, Desk, Updates, heading, ours, table
from labeling.app.lead.lookup import (
    MOST_DIGITS,
    PAGE,
    ItemRow,
    find_items,
    open_flags,
    read_gold_of,
    read_item,
    resolve_flags,
)
from labeling.app.render import render_answer, render_conversation
from labeling.app.texts import texts
from labeling.errors import LabelingError
from labeling.people import audit
from labeling.queue.gold import remove_gold, set_gold
from labeling.store import Store

ROLES = texts("en").roles
WHICH = {"Everything": {}, "Flagged": {"flagged": True}, "Gold": {"gold": True}}
RIGHT = {  # (verdict, p_first) by what the lead chooses
    "The first is better": ("preference", 1.0),
    "The second is better": ("preference", 0.0),
    "They are about the same": ("tie", 0.5),
    "Both are bad": ("both_bad", 0.5),
}


def lay_out(tab: gr.Tab, store: Store) -> None:
    desk = Desk.lay_out(store)
    with gr.Row(elem_classes="line"):
        text = gr.Textbox(label="Find", placeholder="words of the prompt, or a number", max_lines=1)
        which = gr.Dropdown(list(WHICH), value="Everything", label="Among")
        find = gr.Button("Find", variant="primary")
    listed = ours()
    after = hidden("items-after")
    more = gr.Button("More", size="sm", elem_classes="quiet", visible=False)
    with gr.Row(elem_classes="line"):
        number = gr.Textbox(label="Item", placeholder="its number", max_lines=1)
        open_ = gr.Button("Open")
    detail = Detail.lay_out(desk)

    def show(asking: Asking, text: str, which: str, after_id: str = "") -> Updates:
        last = int(after_id[:MOST_DIGITS]) if after_id.isdecimal() else 0
        rows = find_items(store, text or "", last, **WHICH.get(which, {}))
        return {
            listed: items_table(rows),
            more: gr.update(visible=len(rows) == PAGE),
            after: str(rows[-1].id) if rows else "",
        }

    criteria, list_ = [text, which], [listed, more, after]
    desk.on(tab.select, show, criteria, list_)
    desk.on(find.click, show, criteria, list_)
    desk.on(text.submit, show, criteria, list_)
    desk.on(more.click, show, [*criteria, after], list_)
    detail.bind(desk, [open_.click, number.submit], number)


def items_table(rows: list[ItemRow]) -> str:
    return table(
        "Items",
        ("Number", "Prompt", "Labels", "Gold", "Open flags"),
        [(row.id, row.preview, row.labels, "gold" if row.gold else "", row.flags or "") for row in rows],
        "Nothing is found.",
    )


@dataclass(frozen=True)
class Detail:
    """One item to read, its declared answer and its flags. Sides are in stored order, without models' names."""

    store: Store
    box: gr.Column
    flags: gr.Markdown
    settle: gr.Button
    conversation: gr.Markdown
    sides: tuple[gr.Markdown, gr.Markdown]
    right: gr.Radio
    remark: gr.Textbox
    make_gold: gr.Button
    no_gold: gr.Button

    @classmethod
    def lay_out(cls, desk: Desk) -> Detail:
        with gr.Column(visible=False) as box:
            flags = ours()
            settle = gr.Button("Settle its flags", size="sm", visible=False)
            conversation = untrusted()
            with gr.Row(elem_classes="sides"):
                sides = (lay_out_side("First"), lay_out_side("Second"))
            right = gr.Radio(list(RIGHT), label="The right answer (makes it gold)")
            remark = gr.Textbox(label="Why", max_lines=3)
            with gr.Row(elem_classes="line"):
                make_gold = gr.Button("Make it gold", variant="primary")
                no_gold = gr.Button("Not gold any more")
        return cls(desk.store, box, flags, settle, conversation, sides, right, remark, make_gold, no_gold)

    def bind(self, desk: Desk, opening: list[Callable[..., Any]], number: gr.Textbox) -> None:
        """Say what opens it, and do what its buttons say."""
        parts = [self.box, self.flags, self.settle, self.conversation, *self.sides]
        parts += [self.right, self.remark, self.make_gold, self.no_gold]

        def changed(asking: Asking, item: int, action: str, said: str, **detail: object) -> Updates:
            audit.record(self.store, asking.id, action, str(item), detail)
            return {**self.show(str(item)), **desk.says(said)}

        def open_(asking: Asking, number: str) -> Updates:
            return self.show(number)

        def make_gold(asking: Asking, number: str, right: str | None, remark: str) -> Updates:
            if right not in RIGHT:
                raise LabelingError("choose the right answer first")
            item = read_item(self.store, number).id
            verdict, p_first = RIGHT[right]
            set_gold(self.store, item, verdict, p_first, (remark or "").strip())
            return changed(
                asking, item, "item.gold", f"Item {item} is gold.", verdict=verdict, p_first=p_first
            )

        def no_gold(asking: Asking, number: str) -> Updates:
            item = read_item(self.store, number).id
            remove_gold(self.store, item)
            return changed(asking, item, "item.ungold", f"Item {item} is an ordinary item again.")

        def settle(asking: Asking, number: str) -> Updates:
            item = read_item(self.store, number).id
            settled = resolve_flags(self.store, item)
            return changed(
                asking, item, "item.settle", f"The flags of item {item} are settled.", flags=settled
            )

        for event in opening:
            desk.on(event, open_, [number], parts)
        desk.on(self.make_gold.click, make_gold, [number, self.right, self.remark], parts)
        desk.on(self.no_gold.click, no_gold, [number], parts)
        desk.on(self.settle.click, settle, [number], parts)

    def show(self, number: str) -> Updates:
        item = read_item(self.store, number)
        gold, raised = read_gold_of(self.store, item.id), open_flags(self.store, item.id)
        pair = len(item.sides) == 2
        chosen = next((name for name, answer in RIGHT.items() if gold and answer == gold[:2]), None)
        others = [render_answer(messages, ROLES) for messages, _ in item.sides]
        return {
            self.box: gr.update(visible=True),
            self.flags: table("Open flags", ("Who", "Why"), raised),
            self.settle: gr.update(visible=bool(raised)),
            self.conversation: render_conversation(item.prompt, ROLES),
            self.sides[0]: others[0],
            self.sides[1]: "\n\n".join(others[1:]),
            self.right: gr.update(value=chosen, visible=pair),
            self.remark: gr.update(value=gold[2] if gold else "", visible=pair),
            self.make_gold: gr.update(visible=pair),
            self.no_gold: gr.update(visible=gold is not None),
        }


def lay_out_side(name: str) -> gr.Markdown:
    with gr.Column(elem_classes="card"):
        heading(name)
        return untrusted()
