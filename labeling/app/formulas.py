r"""LaTeX in Markdown: `$..$`, `\(..\)`, `$$..$$` and `\[..\]` become `formula` tokens, kept from Markdown's hands.

A single dollar opens a formula only before a non-space, and closes it only after one and before no digit, so
that "between $5 and $10" stays money (pandoc's rule).
"""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

DOLLAR = re.compile(r"\$(?![\s$])([^$]*?[^\s$\\])\$(?!\d)")
DELIMITERS = {"$$": "$$", "\\[": "\\]", "\\(": "\\)"}
LONGEST = 20_000  # characters: how far ahead the end of a formula is looked for
INTERRUPTS = ["paragraph", "reference", "blockquote", "list"]


def add_formulas(parser: MarkdownIt) -> None:
    """Teach a parser both rules. Its renderer needs a method `formula`."""
    parser.inline.ruler.before("escape", "formula", inline_formula)
    parser.block.ruler.before("fence", "formula", block_formula, {"alt": INTERRUPTS})


def inline_formula(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] not in "$\\":
        return False
    opener = state.src[state.pos : state.pos + 2]
    limit = min(state.posMax, state.pos + LONGEST)
    if closer := DELIMITERS.get(opener):
        end = state.src.find(closer, state.pos + 2, limit)
        content, after = state.src[state.pos + 2 : end], end + 2
        if end < 0 or not content.strip():
            return False
    elif match := DOLLAR.match(state.src, state.pos, limit):
        content, after = match[1], match.end()
    else:
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content = content
        token.meta = {"display": opener in ("$$", "\\[")}
    state.pos = after
    return True


def block_formula(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Display formulas that begin a line: their lines may look like lists or headings."""
    if state.is_code_block(start):
        return False
    first = line_of(state, start)
    if first[:2] not in ("$$", "\\["):
        return False
    closer = DELIMITERS[first[:2]]
    lines = [first[2:]]
    last = start
    while closer not in lines[-1]:
        last += 1
        if last >= end or last - start > LONGEST // 10:
            return False
        lines.append(line_of(state, last))
    content, _, rest = "\n".join(lines).partition(closer)
    if rest.strip() or not content.strip():
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content = content
        token.block = True
        token.meta = {"display": True}
        token.map = [start, last + 1]
        state.line = last + 1
    return True


def line_of(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
