"""The store: prompts, completions, comparisons and labels in one database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from labeling.database import connect, first_line, shown
from labeling.errors import LabelingError
from labeling.reads import (
    PAGE,
    comparison_page,
    pages,
    read_counts,
    read_labels,
    select_comparisons,
)
from labeling.schema import Annotator, Comparison
from labeling.views import Added, ComparisonView, LabelView, Message, NewComparison, NewCompletion, NewLabel
from labeling.writes import insert_comparisons, insert_labels, take_turns


class Store:
    """One label store. Safe to use from several threads and processes at once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writer = engine.execution_options(writes=True)

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> Store:
        """The store at a path or a SQLAlchemy URL, its tables brought up to date.

        Raises LabelingError for a database that cannot be reached or is not a store, a missing driver, a
        store that a newer version made, or (with `create` off) a store that is not there.
        """
        return cls(connect(url, create=create))

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A transaction that writes: committed when the block ends, rolled back when it raises.

        On SQLite it holds the write lock from the start, so what it reads cannot change before it writes.
        """
        try:
            with Session(self._writer) as session, session.begin():
                yield session
        except OperationalError as error:
            raise LabelingError(
                f"the store {shown(self.engine)} did not write: {first_line(error)}"
            ) from error

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection that sees the store as it is now, whatever others write meanwhile."""
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    def add_comparison(
        self,
        prompt: Sequence[Message],
        completions: Sequence[NewCompletion],
        *,
        origin: str = "rollout",
        priority: float = 0.0,
        meta: dict[str, Any] | None = None,
    ) -> Added:
        """Add one comparison; see `add_comparisons`."""
        return self.add_comparisons([NewComparison(prompt, completions, origin, priority, meta)])[0]

    def add_comparisons(
        self,
        batch: Iterable[NewComparison],
        *,
        before_commit: Callable[[list[Added]], None] | None = None,
    ) -> list[Added]:
        """Add comparisons in one transaction: all of them or, after an error, none.

        `before_commit` is given the outcomes while they can still be undone: a record that it writes never
        misses what the store has.

        What is there already is found, not doubled. A comparison with an empty answer, or without two
        different ones, is not added and says so; of three or more sides those that repeat another's text
        are dropped. Raises LabelingError for a prompt or completion that is malformed.
        """
        added: list[Added] = []
        with self.begin() as session:
            take_turns(session)
            for page in pages(batch):
                added += insert_comparisons(session, page)
            if before_commit:
                before_commit(added)
        return added

    def annotator(self, name: str, kind: str, meta: dict[str, Any] | None = None) -> int:
        """The id of the annotator called `name`, made on first use.

        Raises LabelingError if one of that name is of another kind, or if "scripted-" at the start of the
        name and the kind "scripted" do not go together.
        """
        if (kind == "scripted") != name.startswith("scripted-"):
            raise LabelingError(
                f"annotator {name!r} of kind {kind!r}: names of scripted annotators, and only those, "
                "begin with 'scripted-'"
            )
        try:
            with self.begin() as session:
                there = session.scalar(select(Annotator).where(Annotator.name == name))
                if there is None:
                    there = Annotator(name=name, kind=kind, meta=meta or {})
                    session.add(there)
                    session.flush()
                if there.kind != kind:
                    raise LabelingError(f"annotator {name!r} is of kind {there.kind!r}, not {kind!r}")
                return there.id
        except IntegrityError as error:
            if "kind" in str(error.orig):
                raise LabelingError(
                    f"unknown kind {kind!r} of annotator: human, judge, scripted or import"
                ) from None
            return self.annotator(name, kind, meta)  # another process made it at the same moment

    def comparisons(
        self,
        *,
        without_label_by: int | None = None,
        without_judgement_by: int | None = None,
        unlabelled: bool = False,
        ids: Iterable[int] | None = None,
        limit: int | None = None,
    ) -> Iterator[ComparisonView]:
        """Comparisons in id order that meet every condition given.

        Read page by page, each in a transaction of its own: the caller may write meanwhile and take hours.
        """
        query = select_comparisons(
            without_label_by=without_label_by,
            without_judgement_by=without_judgement_by,
            unlabelled=unlabelled,
        )
        chosen: Iterable[list[int] | None] = [None] if ids is None else pages(sorted(set(ids)))
        left = limit
        for page_ids in chosen:
            part = query if page_ids is None else query.where(Comparison.id.in_(page_ids))
            last = 0
            while left is None or left > 0:
                size = PAGE if left is None else min(PAGE, left)
                with self.engine.connect() as connection:
                    page = comparison_page(connection, part.where(Comparison.id > last), size)
                yield from page
                left = None if left is None else left - len(page)
                if len(page) < size:
                    break
                last = page[-1].id

    def count_comparisons(
        self, *, without_label_by: int | None = None, without_judgement_by: int | None = None
    ) -> int:
        """How many `comparisons` would yield: the total of a progress bar."""
        query = select_comparisons(
            without_label_by=without_label_by, without_judgement_by=without_judgement_by
        )
        with self.engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()

    def add_label(self, label: NewLabel) -> int:
        """Record a label; see `add_labels`."""
        return self.add_labels([label])[0]

    def add_labels(self, labels: Iterable[NewLabel]) -> list[int]:
        """Record labels in one transaction; their ids. Sending one again gives the id of the first time.

        Raises LabelingError for a verdict that cannot be, an unknown comparison or annotator, a key that
        names another label, or a correction of a label that is another's or corrected already.
        """
        with self.begin() as session:
            take_turns(session)
            return [label for page in pages(labels) for label in insert_labels(session, page)]

    def effective_labels(self) -> Iterator[LabelView]:
        """The labels that nothing supersedes, in order of comparison and then of time, as of one moment."""
        with self.snapshot() as connection:
            yield from read_labels(connection)

    def counts(self) -> dict[str, int]:
        """Rows in the store: prompts, completions, comparisons, labels (effective; also `labels.KIND`)."""
        with self.engine.connect() as connection:
            return read_counts(connection)
