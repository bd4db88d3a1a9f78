"""From a comparison to the messages a judge is sent: the judged text is fenced, and cannot break its fence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import SandboxedEnvironment

from labeling.errors import LabelingError
from labeling.views import Message

# by mode: what a template may use, and what it has to, or the judge would not see it
JUDGED = {"pairwise": ("answer_a", "answer_b"), "pointwise": ("answer",), "list": ("answers",)}
ABOUT = ("prompt", "reference", "rubric", "principles", "reasoning", "form", "labels", "aspects")
# A judged text may hold something that reads as one of our tags, perhaps with invisible or full-width
# characters in it; only then is its opening bracket written as an entity. All other text stays as it came.
_TAG_LIKE = re.compile(r"[<＜](?=[\s\u200b-\u200f\u2060\ufeff/／]*judged_)", re.IGNORECASE)


def fenced(name: str, text: str) -> str:
    """`text` between <judged_NAME> tags of which none can occur inside it."""
    return f"<judged_{name}>\n{_TAG_LIKE.sub('&lt;', text)}\n</judged_{name}>"


def as_text(messages: Sequence[Message]) -> str:
    """A conversation as one text: the content alone if there is one message, else "role: content" turns."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def load_template(prompt: str, language: str, mode: str = "pairwise") -> Template:
    """The packaged template `prompt` in `language`, or the Jinja2 file at the path `prompt`.

    Raises LabelingError if there is none, if it is not valid Jinja2, if it uses a variable that is not
    given in this mode, or if it leaves out an answer.
    """
    packaged = resources.files("labeling.judge") / "prompts" / f"{prompt}.{language}.j2"
    try:
        # a name with a slash or an ending is a path; a packaged name has neither
        is_name = re.fullmatch(r"[\w-]+", prompt) and packaged.is_file()
        source = (packaged if is_name else Path(prompt)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelingError(
            f"judge prompt {prompt!r} cannot be read ({getattr(error, 'strerror', None) or error}); "
            f"give the path of a Jinja2 file, or one of {', '.join(JUDGED)}"
        ) from None
    # no autoescape: the text goes to a model, not to a browser; sandboxed, for templates travel
    environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    try:
        used = meta.find_undeclared_variables(environment.parse(source))
        template = environment.from_string(source)
    except TemplateError as error:
        lineno = getattr(error, "lineno", None)
        line = f" line {lineno}" if lineno else ""
        raise LabelingError(f"judge prompt {prompt}{line}: {error.message}") from None
    known = (*JUDGED[mode], *ABOUT)
    for unknown in sorted(used - set(known)):
        raise LabelingError(
            f"judge prompt {prompt}: {unknown!r} is undefined; a {mode} template may use {', '.join(known)}"
        )
    for absent in sorted(set(JUDGED[mode]) - used):
        raise LabelingError(f"judge prompt {prompt}: it never uses {absent!r}, so the judge would not see it")
    return template


def render(template: Template, variables: Mapping[str, Any]) -> list[Message]:
    """The request's messages. Raises LabelingError for a template that fails on these variables."""
    try:
        content = template.render(variables)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise LabelingError(f"judge prompt: {' '.join(str(error).split())}") from None
    return [{"role": "user", "content": content}]
