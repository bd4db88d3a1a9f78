"""Adding rows to the store in bulk, inside a transaction that the caller holds.

Everything is named by its content's hash, so adding the same thing again finds what is there. Bulk adds take
turns (SQLite's one writer; an advisory lock on PostgreSQL), so a look-up and the insert after it are one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from sqlalchemy import func, insert, select, text, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labeling.errors import LabelingError
from labeling.hashing import comparison_key, completion_hash, prompt_hash
from labeling.messages import check_completion, check_prompt, is_empty, storable
from labeling.queue.slots import read_overlap, shuffle_of, take_directly
from labeling.schema import Comparison, ComparisonSide, Completion, Label, Prompt
from labeling.views import Added, Message, NewAnswer, NewComparison, NewCompletion, NewLabel, Verdict

BULK_LOCK = 0x62756C6B
MOST_SIDES = 9
VERDICTS = get_args(Verdict)


def take_turns(session: Session) -> None:
    """Only one bulk add runs at a time."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SELECT pg_advisory_xact_lock({BULK_LOCK})"))


def insert_comparisons(session: Session, batch: Sequence[NewComparison]) -> list[Added]:
    """Adds those that are new; one `Added` for each of `batch`, in its order. Sides with equal text count once.

    Raises LabelingError for a malformed prompt or completion.
    """
    outcomes: list[Added | None] = [None] * len(batch)
    wanted: dict[str, tuple[NewComparison, str, list[NewCompletion]]] = {}  # by key, first come first
    places: list[tuple[int, str]] = []
    for place, comparison in enumerate(batch):
        check_prompt(comparison.prompt)
        sides = different_sides(comparison.completions)
        if any(is_empty(side.messages) for side in sides):
            outcomes[place] = Added(None, "empty")
        elif len(sides) < 2:
            outcomes[place] = Added(None, "identical")
        else:
            group = prompt_hash(comparison.prompt)
            key = comparison_key(group, (completion_hash(s.messages, s.model) for s in sides))
            wanted.setdefault(key, (comparison, group, sides))
            places.append((place, key))
    ids = ids_by(session, Comparison, Comparison.key, wanted)
    new = {key: value for key, value in wanted.items() if key not in ids}
    ids |= insert_new_comparisons(session, new)
    for place, key in places:
        outcomes[place] = Added(ids[key], "added" if key in new else "duplicate")
        new.pop(key, None)  # its second mention in the batch is a duplicate
    return [outcome for outcome in outcomes if outcome]


def different_sides(completions: Sequence[NewCompletion]) -> list[NewCompletion]:
    """The completions without those that repeat another's text."""
    if not 2 <= len(completions) <= MOST_SIDES:
        raise LabelingError(f"a comparison has 2 to {MOST_SIDES} sides, not {len(completions)}")
    sides: list[NewCompletion] = []
    for completion in completions:
        check_completion(completion.messages)
        if all(list(completion.messages) != list(side.messages) for side in sides):
            sides.append(completion)
    return sides


def insert_new_comparisons(
    session: Session, new: dict[str, tuple[NewComparison, str, list[NewCompletion]]]
) -> dict[str, int]:
    prompts, _ = insert_prompts(
        session, {group: (comparison.prompt, comparison.meta) for comparison, group, _ in new.values()}
    )
    completions = insert_completions(
        session, [(prompts[group], side) for _, group, sides in new.values() for side in sides]
    )
    overlap = read_overlap(session)
    rows = [
        {
            "key": key,
            "shuffle": shuffle_of(key),
            "slots_left": overlap,
            "prompt_id": prompts[group],
            "origin": comparison.origin,
            "priority": comparison.priority,
        }
        for key, (comparison, group, _) in new.items()
    ]
    insert_rows(session, Comparison, rows)
    ids = ids_by(session, Comparison, Comparison.key, new)
    side_ids = iter(completions)
    insert_rows(
        session,
        ComparisonSide,
        [
            {"comparison_id": ids[key], "position": position, "completion_id": next(side_ids)}
            for key, (_, _, sides) in new.items()
            for position in range(len(sides))
        ],
    )
    return ids


def insert_answers(session: Session, batch: Sequence[NewAnswer]) -> int:
    """Adds prompts with one answer each; returns how many answers were new."""
    for answer in batch:
        check_prompt(answer.prompt)
        check_completion(answer.completion.messages)
    groups = [prompt_hash(answer.prompt) for answer in batch]
    prompts, _ = insert_prompts(session, {g: (a.prompt, a.meta) for g, a in zip(groups, batch, strict=True)})
    pairs = [(prompts[group], answer.completion) for group, answer in zip(groups, batch, strict=True)]
    before = completion_ids(session, [(prompt, side_hash(side)) for prompt, side in pairs])
    ids = insert_completions(session, pairs)
    references = [i for i, answer in zip(ids, batch, strict=True) if answer.reference]
    session.execute(update(Completion).where(Completion.id.in_(references)).values(reference=True))
    return len(set(ids) - set(before.values()))


def insert_prompts(
    session: Session, prompts: dict[str, tuple[Sequence[Message], dict[str, Any] | None]]
) -> tuple[dict[str, int], int]:
    """Ids of the prompts by their hash, and how many were new and are added."""
    ids = ids_by(session, Prompt, Prompt.hash, prompts)
    new = {key: value for key, value in prompts.items() if key not in ids}
    rows = [{"hash": key, "messages": list(m), "meta": meta or {}} for key, (m, meta) in new.items()]
    insert_rows(session, Prompt, rows)
    return ids | ids_by(session, Prompt, Prompt.hash, new), len(new)


def insert_completions(session: Session, sides: Sequence[tuple[int, NewCompletion]]) -> list[int]:
    """Ids of completions given with their prompt's id; those that are not there yet are added."""
    keys = [(prompt, side_hash(side)) for prompt, side in sides]
    ids = completion_ids(session, keys)
    new = {key: side for key, (_, side) in zip(keys, sides, strict=True) if key not in ids}
    rows = [
        {
            "prompt_id": prompt,
            "hash": digest,
            "messages": list(side.messages),
            "model": side.model,
            "policy_version": side.policy_version,
            "finish_reason": side.finish_reason,
            "meta": side.meta,
        }
        for (prompt, digest), side in new.items()
    ]
    insert_rows(session, Completion, rows)
    ids |= completion_ids(session, list(new))
    return [ids[key] for key in keys]


def side_hash(completion: NewCompletion) -> str:
    return completion_hash(completion.messages, completion.model)


def completion_ids(session: Session, keys: Sequence[tuple[int, str]]) -> dict[tuple[int, str], int]:
    column = tuple_(Completion.prompt_id, Completion.hash)
    found = session.execute(
        select(Completion.prompt_id, Completion.hash, Completion.id).where(column.in_(set(keys)))
    )
    return {(prompt, digest): i for prompt, digest, i in found}


def ids_by(session: Session, table: Any, column: Any, keys: Any) -> dict[str, int]:
    return dict(session.execute(select(column, table.id).where(column.in_(list(keys)))).tuples().all())


def insert_rows(session: Session, table: Any, rows: list[dict[str, Any]]) -> None:
    """One statement for all rows. Asking it for their ids would make SQLite insert them one by one."""
    if rows:
        session.execute(insert(table.__table__), rows)


def insert_labels(session: Session, labels: Sequence[NewLabel]) -> list[int]:
    """Adds labels; their ids. A known idempotency key gives the row that it names already.

    Raises LabelingError for a verdict that cannot be, an unknown comparison or annotator, a key that already
    names another label, or a correction of a label that is not there, is another's, or is corrected already.
    """
    sides = count_sides(session, [label.comparison_id for label in labels])
    for label in labels:
        check_label(session, label, sides.get(label.comparison_id))
    before = labels_by_key(session, labels)
    new = {label.idempotency_key: label for label in labels if label.idempotency_key not in before}
    if new:
        dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
        statement = dialect.insert(Label).on_conflict_do_nothing(index_elements=["idempotency_key"])
        try:
            session.execute(statement, [label_row(label) for label in new.values()])
        except IntegrityError as error:
            raise LabelingError(f"label not recorded: {explain(error)}") from None
        take_directly(session, [label for label in new.values() if label.assignment_id is None])
    after = labels_by_key(session, labels)
    ids = []
    for label in labels:
        found, comparison, annotator = after[label.idempotency_key]
        if (comparison, annotator) != (label.comparison_id, label.annotator_id):
            raise LabelingError(f"idempotency key {label.idempotency_key!r} already names another label")
        ids.append(found)
    return ids


def labels_by_key(session: Session, labels: Sequence[NewLabel]) -> dict[str, tuple[int, int, int]]:
    """(id, comparison, annotator) by idempotency key, of those that are in the store."""
    keys = [label.idempotency_key for label in labels]
    rows = session.execute(
        select(Label.idempotency_key, Label.id, Label.comparison_id, Label.annotator_id).where(
            Label.idempotency_key.in_(keys)
        )
    )
    return {key: (label, comparison, annotator) for key, label, comparison, annotator in rows}


def label_row(label: NewLabel) -> dict[str, Any]:
    return {
        "comparison_id": label.comparison_id,
        "annotator_id": label.annotator_id,
        "assignment_id": label.assignment_id,
        "verdict": label.verdict,
        "p_first": float(label.p_first),
        "strength": label.strength,
        "shown_order": list(label.shown_order),
        "rationale": storable(label.rationale),
        "seconds": label.seconds,
        "meta": label.meta,
        "idempotency_key": label.idempotency_key,
        "supersedes_id": label.supersedes_id,
        "purpose": label.purpose,
    }


def count_sides(session: Session, comparisons: Sequence[int]) -> dict[int, int]:
    """How many sides each of these comparisons has; those that are not in the store are left out."""
    query = select(ComparisonSide.comparison_id, func.count()).group_by(ComparisonSide.comparison_id)
    return dict(session.execute(query.where(ComparisonSide.comparison_id.in_(comparisons))).tuples().all())


def check_label(session: Session, label: NewLabel, sides: int | None) -> None:
    """Raises LabelingError for a label that cannot be recorded on a comparison of so many sides."""
    ranks = label.meta.get("ranks")
    if sides is None:
        problem = f"comparison {label.comparison_id} is not in the store"
    elif label.verdict not in VERDICTS:
        problem = f"unknown verdict {label.verdict!r}; known: {', '.join(VERDICTS)}"
    elif not 0.0 <= label.p_first <= 1.0:
        problem = f"p_first must lie between 0 and 1, not {label.p_first}"
    elif label.verdict == "preference" and label.p_first == 0.5:
        problem = "a preference with p_first 0.5 prefers neither side: record a tie"
    elif label.verdict in ("preference", "tie") and sides > 2:
        problem = f"comparison {label.comparison_id} has {sides} sides: record a ranking"
    elif label.verdict == "ranking" and not is_ranks(ranks, sides):
        problem = f"a ranking of {sides} sides needs that many ranks (1 is the best), not {ranks!r}"
    elif label.strength not in (0, 1, 2, 3):
        problem = f"strength must be 0 (unknown) to 3 (much better), not {label.strength}"
    elif not 0 < len(label.idempotency_key) <= 64:
        problem = "an idempotency key has 1 to 64 characters"
    elif label.supersedes_id is not None and not may_supersede(session, label):
        problem = f"it cannot supersede label {label.supersedes_id}, which is not this annotator's on this comparison"
    else:
        return
    raise LabelingError(f"label not recorded: {problem}")


def is_ranks(ranks: Any, sides: int) -> bool:
    return (
        isinstance(ranks, list)
        and len(ranks) == sides
        and all(type(rank) is int and rank >= 1 for rank in ranks)
    )


def may_supersede(session: Session, label: NewLabel) -> bool:
    old = session.get(Label, label.supersedes_id)
    if old is None or old.comparison_id != label.comparison_id:
        return False
    decisions = old.purpose == label.purpose == "adjudicate"  # another lead may decide anew
    return decisions or old.annotator_id == label.annotator_id


def explain(error: IntegrityError) -> str:
    if "supersedes" in str(error.orig):
        return "the label that it supersedes is superseded already"
    return "its annotator or assignment is not in the store"
