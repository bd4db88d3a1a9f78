"""Messages as harmless HTML: what is kept, what is shown instead, and that hostile length costs little."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling.app.render import LONGEST_MARKDOWN, render_answer, render_conversation, render_text
from labeling.app.texts import EN

OURS = {
    *("div", "p", "pre", "code", "span", "br", "hr", "em", "strong", "s", "blockquote", "ul", "ol", "li"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def inner(text: str) -> str:
    return render_text(text).removeprefix('<div class="message">').removesuffix("</div>").strip()


def test_markdown_is_kept():
    assert inner("**a** *b* `c` ~~d~~") == "<p><strong>a</strong> <em>b</em> <code>c</code> <s>d</s></p>"
    assert inner("# Title") == '<p class="h1">Title</p>'  # not in the page's own outline
    assert "<table>" in inner("| a |\n|---|\n| 1 |")
    assert inner("one\ntwo") == "<p>one<br /> two</p>"
    assert inner("```py\na = 1\n\nb\n```") == '<pre tabindex="0"><code>a = 1&#10;&#10;b&#10;</code></pre>'


def test_links_and_images_are_shown_and_lead_nowhere():
    assert inner("[here](https://a.b/?x=1&y)") == (
        '<p><span class="link">here</span> <code>https://a.b/?x=1&amp;y</code></p>'
    )
    assert inner("<https://a.b>") == '<p><span class="link">https://a.b</span></p>'
    assert inner("![alt](http://a.b/c.png)") == "<p><code>![alt](http://a.b/c.png)</code></p>"
    assert "javascript:x" in inner("[a](javascript:x)")


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("$a_1 * b * c$", "\ue000a_1 * b * c\ue001"),
        (r"\(a<b\)", "\ue000a&lt;b\ue001"),
        ("$$x$$", "\ue002x\ue003"),
        ("$$\na\n- b\n= c\n$$", "\ue002&#10;a&#10;- b&#10;= c&#10;\ue003"),
        (r"\[ y \]", "\ue002 y \ue003"),
    ],
)
def test_formulas_are_kept_from_markdown(text, formula):
    assert formula in render_text(text)


@pytest.mark.parametrize(
    "text",
    ["between $5 and $10", "$ a $", "`$x$`", r"\$x\$", "$$", "$$\nno end", "\ue000x\ue001", "```\n$x$\n```"],
)
def test_what_only_looks_like_a_formula_is_none(text):
    assert not re.search("[\ue000-\ue003]", render_text(text))


def test_characters_that_reorder_text_are_shown():
    assert "safe ⟦U+202E⟧gnp.exe" in inner("safe \u202egnp.exe")
    assert "مرحبا" in inner("مرحبا")


def test_turns_are_named_and_cannot_run_into_each_other():
    html = render_conversation(
        [{"role": "user", "content": "```\nopen"}, {"role": "assistant", "content": "**b**"}], EN.roles
    )
    first, second = html.split("\n\n")
    assert '<p class="role">User</p>' in first
    assert "<strong>b</strong>" in second
    assert render_answer([{"role": "assistant", "content": "x"}], EN.roles) == render_text("x")
    assert "Tool" in render_answer(
        [{"role": role, "content": "x"} for role in ("assistant", "tool", "assistant")], EN.roles
    )


@given(st.text(alphabet=st.sampled_from(list("<>&\"'`$\\*_[]()!|-#~:/\n\t ab1=;%\ue000\u202e")), max_size=60))
def test_any_text_becomes_one_line_of_our_tags_only(text):
    html = render_text(text)
    assert "\n" not in html
    seen = Tags(html)
    assert seen.tags <= OURS
    assert seen.attributes <= {"class", "tabindex", "start", "style"}
    assert set(re.findall(r'style="([^"]*)"', html)) <= {
        f"text-align:{side}" for side in ("left", "right", "center")
    }


@pytest.mark.parametrize(
    "text",
    [
        "\\[" * 20_000,
        "\\( " * 20_000,
        "[" * 40_000,
        "$$\n" * 20_000,
        "*a **b " * 10_000,
        "> " * 20_000,
        "`a" * 30_000,
    ],
)
def test_hostile_repetition_takes_no_time_to_speak_of(text):
    began = time.process_time()
    render_text(text)
    assert time.process_time() - began < 5


def test_very_long_text_is_shown_as_it_is():
    html = render_text("**a** <b>\n" * LONGEST_MARKDOWN)
    assert Tags(html).tags == {"div", "pre", "code"}
    assert "**a** &lt;b&gt;&#10;" in html
    assert "<strong>" in render_text("**a** " * 15_000)  # 90 KB are still Markdown
