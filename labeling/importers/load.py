"""Bringing a data set into the store: page by page, each page one transaction, so that a kill loses nothing.

Every row is named by its content. A row that is there already adds nothing, whichever file it came from, so an
import that was cut short is completed by running it again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeling.errors import LabelingError
from labeling.hashing import comparison_key, completion_hash, content_hash, prompt_hash
from labeling.importers.formats import Format
from labeling.importers.read import SUFFIXES, Raw, read_rows
from labeling.importers.recognise import columns_format, find_format, recognise
from labeling.importers.records import Answer, Item, Pair, Question, Unfit, keepable
from labeling.importers.report import ImportReport
from labeling.messages import check_completion, check_prompt, is_empty
from labeling.reads import pages
from labeling.schema import ComparisonSide, Completion, ImportBatch
from labeling.store import Store
from labeling.views import Message, NewAnswer, NewComparison, NewCompletion, NewLabel, Verdict
from labeling.writes import (
    insert_answers,
    insert_comparisons,
    insert_labels,
    insert_prompts,
    labels_by_key,
    take_turns,
)

SAMPLE = 50  # rows that decide on the format


@dataclass
class State:
    """An import under way."""

    form: Format
    annotator: int
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    not_kept: set[str] = field(default_factory=set)


def import_path(
    store: Store,
    path_or_hub_id: str | Path,
    *,
    format: str = "auto",
    limit: int | None = None,
    rejects: Path | None = None,
    progress: Callable[[int], None] | None = None,
    prompt_column: str | None = None,
    response_column: str | None = None,
    name: str = "",
) -> ImportReport:
    """Bring a file, a folder or a hub data set (owner/name or owner/name:split) into the store.

    Preferences become comparisons with a label of kind "import", instruction data prompts with an answer, and
    prompts prompts. Rows that do not fit are counted, and written with their reason to `rejects` (by default
    NAME.rejects.jsonl in the current folder). `progress` is called with the number of rows just done. `name` is
    what the store calls the source, where its path says nothing (an upload's).

    Raises LabelingError for a source that cannot be read, or whose format is unknown. If a file turns out to
    be damaged midway, the rows up to there are kept.
    """
    source = str(path_or_hub_id)
    rows = Readable(islice(read_rows(source), limit))
    first = list(islice(rows, SAMPLE))
    if not first:
        raise rows.error or LabelingError(f"{source} holds no rows")
    sample = [raw.row for raw in first if raw.row is not None]
    if prompt_column:
        form, why = columns_format(prompt_column, response_column), "the columns were named"
    elif format == "auto" and not sample:
        raise LabelingError(f"{source} cannot be read: {first[0].reason} (row {first[0].number})")
    elif format == "auto":
        form, why = recognise(sample, source)
    else:
        form, why = find_format(format), "the format was named"
    name = name or source
    state = State(form, store.annotator(f"import-{stem(name)}"[:255], "import"))
    rejects = rejects or Path(f"{stem(name)}.rejects.jsonl")
    with Rejects(rejects) as rejected:
        for page in pages(chain(first, rows)):
            items = []
            for raw in page:
                try:
                    items.append(to_item(raw, state))
                except (Unfit, LabelingError) as error:
                    rejected.add(raw, str(error))
                    state.reasons[str(error)] += 1
            add_page(store, items, state)
            state.counts["rows"] += len(page)
            if progress:
                progress(len(page))
    if rows.error:
        raise rows.error
    report = ImportReport(
        state.form.name,
        why,
        figures(state),
        dict(state.reasons.most_common()),
        rejects if state.reasons else None,
        sorted(state.not_kept),
    )
    record(store, source, name, report)
    return report


class Readable:
    """Rows up to the point where the source turns out to be damaged; `error` says so afterwards."""

    def __init__(self, rows: Iterator[Raw]) -> None:
        self._rows = rows
        self.error: LabelingError | None = None

    def __iter__(self) -> Iterator[Raw]:
        try:
            yield from self._rows
        except LabelingError as error:
            self.error = error


class Rejects:
    """The file of rejected rows: written aside, and renamed when the import ends. No file without rejects."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._stream: IO[str] | None = None

    def __enter__(self) -> Rejects:
        return self

    def add(self, raw: Raw, reason: str) -> None:
        line = {"row": raw.number, "reason": reason, "raw": raw.text if raw.row is None else raw.row}
        try:
            if self._stream is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self._aside.open("w", encoding="utf-8", errors="backslashreplace")
            self._stream.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        except OSError as error:
            raise LabelingError(f"cannot write the rejects file {self.path}: {error.strerror}") from None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._stream is None:
            return
        self._stream.close()
        if kind is None:
            self._aside.replace(self.path)
        else:
            self._aside.unlink()


def to_item(raw: Raw, state: State) -> Item:
    """A raw row as something to store. Raises Unfit or LabelingError with the reason if it cannot be."""
    if raw.row is None:
        raise Unfit(raw.reason)
    form = state.form
    if not form.fits(raw.row):
        raise Unfit(f"does not have what {form.name} needs: {form.says}")
    item = form.convert(raw.row)
    check_prompt(item.prompt)
    if isinstance(item, Pair):
        sides = [item.chosen, item.rejected]
    else:
        sides = [item.completion] if isinstance(item, Answer) else []
    for side in sides:
        check_completion(side)
        if is_empty(side[-1:]):
            raise Unfit("an answer is empty")
    if isinstance(item, Pair) and item.chosen == item.rejected:
        raise Unfit("the two sides are the same")
    others = [(key, value) for key, value in raw.row.items() if key not in form.uses]
    state.not_kept.update(str(key) for key, value in others if value and not keepable(value))
    kept: dict[str, Any] = {str(key): value for key, value in others if keepable(value)}
    return replace(item, meta=kept | item.meta)


def add_page(store: Store, items: Sequence[Item], state: State) -> None:
    """One transaction: the comparisons with their labels, the answers and the prompts of a page."""
    counts: Counter[str] = Counter()
    with store.begin() as session:
        take_turns(session)
        if pairs := [item for item in items if isinstance(item, Pair)]:
            counts += add_pairs(session, pairs, state.annotator)
        if answers := [item for item in items if isinstance(item, Answer)]:
            new = insert_answers(session, [as_new_answer(item) for item in answers])
            counts += Counter(answers=new, added=new, duplicate=len(answers) - new)
        if questions := [item for item in items if isinstance(item, Question)]:
            new = insert_prompts(session, {prompt_hash(q.prompt): (q.prompt, q.meta) for q in questions})[1]
            counts += Counter(prompts=new, added=new, duplicate=len(questions) - new)
    state.counts += counts


def as_new_answer(item: Answer) -> NewAnswer:
    return NewAnswer(item.prompt, NewCompletion(item.completion), item.desirable, item.meta)


def add_pairs(session: Session, pairs: Sequence[Pair], annotator: int) -> Counter[str]:
    """Comparisons with their labels. The sides are stored in the order of their hashes, so that the position
    tells nothing about which one is preferred."""
    ordered = [sorted((pair.chosen, pair.rejected), key=side_hash) for pair in pairs]
    added = insert_comparisons(
        session,
        [
            NewComparison(pair.prompt, [NewCompletion(side) for side in sides], "import", meta=pair.meta)
            for pair, sides in zip(pairs, ordered, strict=True)
        ],
    )
    ids = [one.comparison_id for one in added if one.comparison_id is not None]
    first_sides = read_first_sides(session, ids)
    labels = [
        as_label(pair, comparison, first_sides[comparison], annotator)
        for pair, comparison in zip(pairs, ids, strict=True)
    ]
    known = labels_by_key(session, labels)  # perhaps under another file's name
    new = {label.idempotency_key: label for label in labels if label.idempotency_key not in known}
    insert_labels(session, list(new.values()))
    return Counter(
        comparisons=sum(one.outcome == "added" for one in added),
        labels=len(new),
        ties=sum(label.verdict == "tie" for label in new.values()),
        added=len(new),
        duplicate=len(pairs) - len(new),
    )


def side_hash(messages: list[Message]) -> str:
    return completion_hash(messages, "")


def read_first_sides(session: Session, comparisons: Sequence[int]) -> dict[int, str]:
    """The hash of the completion at position 0; a comparison from elsewhere may have its own order."""
    query = (
        select(ComparisonSide.comparison_id, Completion.hash)
        .join(ComparisonSide.completion)
        .where(ComparisonSide.position == 0, ComparisonSide.comparison_id.in_(comparisons))
    )
    return dict(session.execute(query).tuples().all())


def as_label(pair: Pair, comparison: int, first_side: str, annotator: int) -> NewLabel:
    """The same preference gives the same key, whichever file it stands in."""
    verdict: Verdict = "tie" if pair.tie else "preference"
    winner = "" if pair.tie else side_hash(pair.chosen)
    sides = (side_hash(pair.chosen), side_hash(pair.rejected))
    return NewLabel(
        comparison,
        annotator,
        verdict,
        0.5 if pair.tie else float(winner == first_side),
        shown_order=[],  # nobody knows
        idempotency_key=content_hash(["import", comparison_key(prompt_hash(pair.prompt), sides), winner]),
        meta={"margin": pair.margin} if pair.margin else {},
    )


def figures(state: State) -> dict[str, int]:
    """rows, added, duplicate and rejected, and what of the rest there was."""
    rejected = state.reasons.total()
    main = {name: state.counts[name] for name in ("rows", "added", "duplicate")} | {"rejected": rejected}
    kinds = ("comparisons", "labels", "ties", "answers", "prompts")
    return main | {kind: state.counts[kind] for kind in kinds if state.counts[kind]}


def record(store: Store, source: str, name: str, report: ImportReport) -> None:
    digest = ""
    if Path(source).is_file():
        with Path(source).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    with store.begin() as session:
        session.add(ImportBatch(content_hash=digest, path=name, format=report.format, counts=report.counts))


def stem(source: str) -> str:
    """The source's name without folder and suffixes."""
    name = Path(source).name
    for suffix in (".gz", *SUFFIXES):
        name = name.removesuffix(suffix)
    return name.replace(":", "-")
