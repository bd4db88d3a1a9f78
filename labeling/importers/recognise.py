"""Which format a file has: by its name, by its columns, or by what its first rows look like."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from labeling.errors import LabelingError
from labeling.importers.formats import FORMATS, SIDES, Format, has
from labeling.importers.records import Answer, Item, Question, Row, assistant, text_in, user


def find_format(name: str) -> Format:
    known = [form.name for form in FORMATS]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: auto, {', '.join(known)}"
        raise LabelingError(f"unknown format {name!r}; {hint}")
    return FORMATS[known.index(name)]


def columns_format(prompt_column: str, response_column: str | None) -> Format:
    """A table whose columns the user names."""

    def convert(row: Row) -> Item:
        asked = [user(text_in(row, prompt_column))]
        return (
            Answer(asked, [assistant(text_in(row, response_column))]) if response_column else Question(asked)
        )

    named = [column for column in (prompt_column, response_column) if column]
    return Format("columns", f"columns {' and '.join(named)}", lambda row: has(row, *named), convert, named)


def recognise(sample: Sequence[Row], source: str) -> tuple[Format, str]:
    """The first format that at least half of `sample` fits, and why.

    Raises LabelingError if there is none, or if only the prompts of preferences could be taken.
    """
    for form in FORMATS:
        fitting = sum(form.fits(row) for row in sample)
        if sample and fitting * 2 >= len(sample):
            if form.name == "prompts" and any(has(row, side) for row in sample for side in SIDES):
                raise LabelingError(
                    f"{source} has preferences of which most lack the prompt, chosen or rejected: add what is "
                    "missing, or take its prompts alone with --format prompts"
                )
            return form, f"{fitting} of the first {len(sample)} rows have {form.says}"
    columns = sorted({str(column) for row in sample for column in row})
    raise LabelingError(
        f"cannot tell the format of {source} from its columns ({', '.join(columns) or 'none'}): name it with "
        "--format, or the columns with --prompt-column and --response-column"
    )
