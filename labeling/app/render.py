"""Messages, written by anyone, as HTML that can do nothing but be read.

The Markdown is read on the server, with raw HTML off, and every character of the text leaves as text: there is
no tag, attribute, address or entity of the author's own in what comes out. Links and images are shown as what
they are, never followed or fetched. A message becomes one line that begins with <div>, which the browser's
Markdown component passes on as it is; formulas stand between private delimiters of which the text is cleared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from labeling.app.formulas import add_formulas
from labeling.views import Message

INLINE, DISPLAY = ("\ue000", "\ue001"), ("\ue002", "\ue003")  # private-use characters: no text needs them
LATEX_DELIMITERS: list[dict[str, str | bool]] = [
    {"left": left, "right": right, "display": display}
    for (left, right), display in ((INLINE, False), (DISPLAY, True))
]
LONGEST_MARKDOWN = 200_000  # characters; what is longer is shown as plain text
MADE_VISIBLE = {
    **{ord(mark): "\ufffd" for mark in INLINE + DISPLAY},
    0: "\ufffd",
    # these reorder the text around them, and can so make it read as something else
    **{code: f"⟦U+{code:04X}⟧" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}


def render_conversation(messages: Sequence[Message], roles: Mapping[str, str]) -> str:
    """A conversation, each turn under the name that `roles` gives its role."""
    return "\n\n".join(
        f'<div class="turn turn-{escape(message["role"])}"><p class="role">'
        f"{escape(roles[message['role']])}</p>{render_text(message['content'])}</div>"
        for message in messages
    )


def render_answer(messages: Sequence[Message], roles: Mapping[str, str]) -> str:
    """An answer: its text alone where it is one message, else its turns."""
    if len(messages) == 1:
        return render_text(messages[0]["content"])
    return render_conversation(messages, roles)


def render_text(text: str) -> str:
    """One message's Markdown as one line of harmless HTML."""
    text = text.translate(MADE_VISIBLE)
    if len(text) > LONGEST_MARKDOWN:
        return f'<div class="message">{pre(text)}</div>'
    html: str = PARSER.render(text)
    return f'<div class="message">{html.replace(chr(10), " ")}</div>'


def pre(text: str) -> str:
    """Text as it is, line by line. It can be scrolled sideways, so the keyboard must reach it."""
    return f'<pre tabindex="0"><code>{kept(text)}</code></pre>'


def kept(text: str) -> str:
    """Escaped text whose line breaks outlive a line that must have none."""
    return escape(text).replace("\n", "&#10;")


class HarmlessRenderer(RendererHTML):
    """Writes tokens as HTML that loads nothing, leads nowhere and stays out of the page's outline."""

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return pre(tokens[idx].content)

    code_block = fence

    def heading_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f'<p class="{tokens[idx].tag}">'

    def heading_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return "</p>"

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return '<div class="table" tabindex="0"><table>'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return "</table></div>"

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return '<span class="link">'

    def link_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        opened = next(token for token in reversed(tokens[:idx]) if token.type == "link_open")
        address = str(opened.attrs.get("href", ""))
        said = "".join(token.content for token in tokens[tokens.index(opened) : idx])
        return "</span>" if said == address else f"</span> <code>{escape(address)}</code>"

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        token = tokens[idx]
        source = f"![{token.content}]({token.attrs.get('src', '')})"
        return f"<code>{escape(source)}</code>"

    def formula(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        token = tokens[idx]
        left, right = DISPLAY if token.meta["display"] else INLINE
        tag = "p" if token.block else "span"
        return f'<{tag} class="formula">{left}{kept(token.content)}{right}</{tag}>'


def make_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}, renderer_cls=HarmlessRenderer)
    parser.enable(["table", "strikethrough"])
    add_formulas(parser)
    # every address is shown, none is followed: so none needs refusing or rewriting
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    parser.normalizeLink = lambda url: url  # type: ignore[method-assign]
    return parser


PARSER = make_parser()
