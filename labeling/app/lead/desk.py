"""What the tabs of the lead's page share: handlers that check who asks, a line for what happened, and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from labeling.app.identity import require
from labeling.errors import LabelingError
from labeling.people.accounts import Person, Role
from labeling.store import Store

Updates = dict[Any, Any]
Work = Callable[..., Updates]  # (asking, *values of the inputs) -> what changes on the page


@dataclass(frozen=True)
class Asking:
    """Who asks, and the address by which their browser reached this server."""

    person: Person
    origin: str

    @property
    def id(self) -> int:
        return self.person.id

    @classmethod
    def of(cls, request: gr.Request, role: Role) -> Asking:
        """Raises NotSignedIn or NotAllowed."""
        person = require(request, role)
        return cls(person, str(request.headers.get("origin", "")))


@dataclass(frozen=True)
class Desk:
    """A tab's store, and the line in which it says what has just happened."""

    store: Store
    notice: gr.Markdown

    @classmethod
    def lay_out(cls, store: Store) -> Desk:
        return cls(store, ours(elem_classes="notice"))

    def on(
        self,
        event: Callable[..., Any],
        work: Work,
        inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
        *,
        slow: bool = False,
    ) -> None:
        """Bind an event of a component. What `work` refuses becomes a notice, and changes nothing.

        What is slow waits in Gradio's queue, and the page shows that it does.
        """

        def handle(request: gr.Request, *values: Any) -> Updates:
            try:
                return {self.notice: "", **work(Asking.of(request, "lead"), *values)}
            except LabelingError as error:
                return {self.notice: note(str(error), wrong=True)}

        event(
            handle,
            list(inputs),
            [self.notice, *outputs],
            queue=slow,
            api_visibility="private",
            show_progress="full" if slow else "hidden",
        )

    def says(self, text: str) -> Updates:
        return {self.notice: note(text)}


def ours(html: str = "", *, sanitize_html: bool = True, **more: Any) -> gr.Markdown:
    """Where HTML of our own goes, with what others wrote in it escaped. (`gr.HTML` needs a laxer CSP.)"""
    return gr.Markdown(html, latex_delimiters=[], sanitize_html=sanitize_html, **more)


def note(said: str, *, wrong: bool = False) -> str:
    """A line about what has just happened; screen readers say it."""
    return f'<p role="{"alert" if wrong else "status"}" class="{"wrong" if wrong else "said"}">{escape(said)}</p>'


@dataclass(frozen=True)
class Cell:
    """A cell that is more than text: `html` is our own, with what others wrote escaped."""

    html: str


def table(caption: str, headers: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "") -> str:
    """A table; every value in it is escaped. `empty` is said where there are no rows."""
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    if not body:
        return f'<p class="empty">{escape(empty)}</p>'
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def cell(value: object) -> str:
    if isinstance(value, Cell):
        return f"<td>{value.html}</td>"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="number">{escape(number(value))}</td>'
    return f"<td>{escape('–' if value is None else str(value))}</td>"


def number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def heading(text: str, said: str = "") -> gr.Markdown:
    """A heading inside a tab, with a line below it that explains."""
    below = f'<p class="explains">{escape(said)}</p>' if said else ""
    return ours(f"<h2>{escape(text)}</h2>{below}")
