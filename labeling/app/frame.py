"""The frame around Gradio's pages: a header that needs no script, our style and keys, language and theme."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader

from labeling.app.texts import texts
from labeling.people.person import Person, Theme

STATIC = Path(__file__).parent / "static"
THEMES: tuple[Theme, ...] = ("system", "light", "dark")
templates = Environment(loader=PackageLoader("labeling.app"), autoescape=True, trim_blocks=True)
OF_GRADIO = re.compile(r'\s*<meta\s+(?:property="og:|name="twitter:)[^>]*>|\s*<link rel="manifest"[^>]*>')


@cache
def asset(name: str) -> str:
    """Where a static file is found: its address changes with its content, so that browsers may keep it."""
    return f"/static/{name}?{hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"


templates.globals["asset"] = asset


def framed(document: str, person: Person, nonce: str) -> str:
    """Gradio's document as this person sees it."""
    words = texts(person.language)
    next_theme = THEMES[(THEMES.index(person.theme) + 1) % len(THEMES)]
    parts = templates.get_template("frame.html.j2")
    context = {"words": words, "person": person, "nonce": nonce, "next_theme": next_theme}
    head = parts.render(part="head", **context)
    header = parts.render(part="header", **context)
    document = OF_GRADIO.sub("", document)
    document = document.replace("<script", f'<script nonce="{nonce}"')
    document = document.replace('lang="en"', f'lang="{words.html_lang}"', 1)
    document = document.replace("<gradio-app", f'<gradio-app theme_mode="{person.theme}"', 1)
    document = document.replace("</head>", f"{head}</head>", 1)
    return re.sub(r"(<body\b[^>]*>)", lambda body: body[0] + header, document, count=1)
