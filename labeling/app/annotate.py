"""The annotator's page: what its buttons do.

The page keeps nothing that is believed: each handler asks the request who is there, and the queue whether the
assignment that the page names is theirs. So a page outlives the server that made it, and tabs do not matter.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import gradio as gr

from labeling.app.answers import Filled, to_answer
from labeling.app.form import LETTERS, MOST_ASPECTS, Form, lay_out
from labeling.app.identity import person_of
from labeling.app.opinion import SHOWN_AI, ai_opinion
from labeling.app.passing import PassingBlocks
from labeling.app.render import render_answer, render_conversation, render_text
from labeling.app.texts import Texts, texts
from labeling.errors import LabelingError
from labeling.queue.claim import Assigned, claim, find_assignment
from labeling.queue.progress import Progress, progress
from labeling.queue.settings import QueueSettings, read_settings
from labeling.queue.submit import flag, skip, submit, undo
from labeling.store import Store
from labeling.writes import MOST_SIDES

LONGEST_NOTE = 2_000
Updates = dict[Any, Any]


def build_annotator(store: Store, language: str) -> gr.Blocks:
    """The page in one language, over a store. Who may see it is the server's to say, and each handler's."""
    words = texts(language)
    with PassingBlocks(title=words.heading, analytics_enabled=False) as blocks:
        gr.Markdown(f"<h1>{escape(words.heading)}</h1>", elem_classes="only-spoken")
        form = lay_out(words)
        page = Page(store, form, words)
        unqueued: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
        everything = {"outputs": form.components, **unqueued}
        blocks.load(page.open, None, **everything)
        form.submit.click(page.submit, [form.token, form.key, *form.filled], **everything)
        form.undo.click(page.undo, None, **everything)
        form.skip.click(page.skip, [form.token, form.skip_reason, form.skip_note], **everything)
        form.flag.click(page.flag, [form.token, form.flag_note], **everything)
    return blocks


class Page:
    """The handlers. They share the store, the form and the texts, and nothing about anybody."""

    def __init__(self, store: Store, form: Form, words: Texts) -> None:
        self.store, self.form, self.words = store, form, words

    def open(self, request: gr.Request) -> Updates:
        """The page was opened: the item that this person holds, or their next."""
        return self.told(request, self.next_item)

    def submit(self, token: str, key: str, request: gr.Request, *values: Any) -> Updates:
        def work(person_id: int) -> Updates:
            settings = read_settings(self.store)
            assigned = find_assignment(self.store, token, person_id)
            filled = read_filled(values, settings.aspects)
            answer = to_answer(filled, len(assigned.shown_order), settings, self.words)
            done = submit(self.store, token, person_id, answer, key=str(key))
            return self.next_item(person_id, self.words.saved_late if done.late else self.words.saved)

        return self.told(request, work)

    def undo(self, request: gr.Request) -> Updates:
        def work(person_id: int) -> Updates:
            assigned = undo(self.store, person_id)
            if assigned is None:
                return {self.form.notice: note(self.words.nothing_to_undo)}
            return self.show(person_id, assigned, self.words.undone)

        return self.told(request, work)

    def skip(self, token: str, reason: str | None, remark: str, request: gr.Request) -> Updates:
        def work(person_id: int) -> Updates:
            if not reason:
                raise LabelingError(self.words.reason_first)
            skip(self.store, token, person_id, joined(reason, remark))
            return self.next_item(person_id, self.words.skipped)

        return self.told(request, work)

    def flag(self, token: str, remark: str, request: gr.Request) -> Updates:
        def work(person_id: int) -> Updates:
            flag(self.store, token, person_id, joined(remark))
            return {
                self.form.notice: note(self.words.flagged),
                self.form.flag_box: gr.update(open=False),
                self.form.flag_note: "",
            }

        return self.told(request, work)

    def told(self, request: gr.Request, work: Callable[[int], Updates]) -> Updates:
        """What `work` does for the person behind the request; a refusal becomes a notice, and changes nothing."""
        try:
            return work(person_of(request).id)
        except LabelingError as error:
            return {self.form.notice: note(str(error), wrong=True)}

    def next_item(self, person_id: int, said: str = "") -> Updates:
        return self.show(person_id, claim(self.store, person_id), said)

    def show(self, person_id: int, assigned: Assigned | None, said: str) -> Updates:
        """Everything that a new item, or none, changes on the page."""
        form, words = self.form, self.words
        settings = read_settings(self.store)
        updates: Updates = {
            form.progress: progress_line(progress(self.store, person_id), words),
            form.notice: note(said if assigned else f"{said} {words.all_done}"),
            form.guidelines: gr.update(visible=bool(settings.guidelines.strip())),
            form.guidelines_text: render_text(settings.guidelines),
            form.skip_box: gr.update(visible=assigned is not None, open=False),
            form.flag_box: gr.update(visible=assigned is not None, open=False),
            form.work: gr.update(visible=assigned is not None),
            form.token: assigned.token if assigned else "",
            form.key: secrets.token_urlsafe(16),
            form.seconds: "",
            form.scale: None,
            form.all_bad: False,
            form.rationale: gr.update(value="", label=rationale_label(settings, words)),
            form.skip_reason: None,
            form.skip_note: "",
            form.flag_note: "",
        }
        return updates | (self.item(assigned, settings) if assigned else {})

    def item(self, assigned: Assigned, settings: QueueSettings) -> Updates:
        """The conversation, the answers in the order of this assignment, and what they are asked for."""
        form, words = self.form, self.words
        comparison, order = assigned.comparison, assigned.shown_order
        pair = len(order) == 2
        opinion = ai_opinion(self.store, assigned, words) if assigned.arm == SHOWN_AI and pair else ""
        updates: Updates = {
            form.conversation: render_conversation(comparison.prompt, words.roles),
            form.opinion: gr.update(value=f"<p>{escape(opinion)}</p>", visible=bool(opinion)),
            form.scale: gr.update(value=None, visible=pair),
            form.rank_hint: gr.update(visible=not pair),
            form.all_bad: gr.update(value=False, visible=not pair),
        }
        for place, card in enumerate(form.cards):
            there = place < len(order)
            updates[card.box] = gr.update(visible=there)
            updates[card.text] = (
                render_answer(comparison.sides[order[place]][0], words.roles) if there else ""
            )
            ranks = [(str(rank), rank) for rank in range(1, len(order) + 1)]
            updates[card.rank] = gr.update(choices=ranks, value=None, visible=there and not pair)
        return updates | self.asked_aspects(settings.aspects if pair else [])

    def asked_aspects(self, names: Sequence[str]) -> Updates:
        form = self.form
        updates: Updates = {form.aspects_box: gr.update(visible=bool(names))}
        for place, aspect in enumerate(form.aspects):
            there = place < len(names)
            updates[aspect.row] = gr.update(visible=there)
            for letter, radio in zip(LETTERS, aspect.sides, strict=False):
                label = self.words.aspect_side.format(aspect=names[place], letter=letter) if there else ""
                updates[radio] = gr.update(value=None, label=label)
        return updates


def read_filled(values: Sequence[Any], aspects: Sequence[str]) -> Filled:
    """The values of `Form.filled`, by name."""
    step, all_bad, rationale, seconds, *rest = values
    ranks, grades = rest[:MOST_SIDES], rest[MOST_SIDES:]
    pairs = [grades[2 * place : 2 * place + 2] for place in range(MOST_ASPECTS)]
    given = dict(zip(aspects, pairs, strict=False))
    return Filled(step, ranks, all_bad is True, given, str(rationale or ""), str(seconds or ""))


def rationale_label(settings: QueueSettings, words: Texts) -> str:
    return words.rationale_wanted if settings.rationale_below else words.rationale


def joined(*parts: str | None) -> str:
    """What the person gave as a reason: the choice and the remark, as far as there are any."""
    return ": ".join(part.strip() for part in parts if part and part.strip())[:LONGEST_NOTE]


def note(said: str, wrong: bool = False) -> str:
    """A line about what has just happened, for `Form.notice`."""
    return f'<p class="{"wrong" if wrong else "said"}">{escape(said.strip())}</p>' if said.strip() else ""


def progress_line(now: Progress, words: Texts) -> str:
    """How much of the day and of the batch is done, and about how long the rest takes."""
    parts = [words.today.format(count=f"{now.today:,}"), words.left.format(count=f"{now.left_for_me:,}")]
    if now.seconds_per_item and now.left_for_me:
        minutes = now.left_for_me * now.seconds_per_item / 60
        parts.append(
            words.minutes.format(count=max(1, round(minutes)))
            if minutes < 90
            else words.hours.format(count=f"{minutes / 60:,.0f}")
        )
    done = now.total - now.left_for_me
    line = " · ".join(f"<span>{escape(part)}</span>" for part in parts)
    label = escape(" ".join(parts), quote=True)
    return f'<p>{line}</p><progress max="{max(1, now.total)}" value="{done}" aria-label="{label}"></progress>'
