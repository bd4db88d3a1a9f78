"""The tables. People and judges write the same ones; a label is never overwritten, only superseded.

Times are UTC. Texts are stored as they came. Hashes are hex SHA-256 of canonical JSON, see `labeling.hashing`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    func,
    literal_column,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


def now() -> datetime:
    return datetime.now(UTC)


OPEN: dict[str, Any] = {"sqlite_where": text("slots_left > 0"), "postgresql_where": text("slots_left > 0")}
LEASED: dict[str, Any] = {
    "sqlite_where": text("state = 'leased'"),
    "postgresql_where": text("state = 'leased'"),
}


def rated(column: str) -> Any:
    """A rating in an index, where one that is missing stands below all others on every database."""
    return func.coalesce(literal_column(column), literal_column("-1.0"))


def as_utc(at: datetime) -> datetime:
    """A stored time with its zone, which SQLite does not keep."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {dict[str, Any]: JSON, list[Any]: JSON, datetime: DateTime(timezone=True)}


class Prompt(Base):
    """A conversation up to the point where a model answers. `hash` names the group that splits never cut."""

    __tablename__ = "prompt"
    id: Mapped[int] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    messages: Mapped[list[Any]]  # [{role, content}, ...]
    meta: Mapped[dict[str, Any]] = mapped_column(default=dict)  # e.g. the source's own columns
    created_at: Mapped[datetime] = mapped_column(default=now)


class Completion(Base):
    """One answer to a prompt and who gave it. The same text by the same model is one row."""

    __tablename__ = "completion"
    __table_args__ = (UniqueConstraint("prompt_id", "hash"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompt.id"))
    hash: Mapped[str] = mapped_column(String(64))  # of (messages, model)
    messages: Mapped[list[Any]]  # the answer: usually one assistant message
    model: Mapped[str] = mapped_column(String(255), default="")
    policy_version: Mapped[int] = mapped_column(default=0)
    finish_reason: Mapped[str] = mapped_column(String(16), default="stop")
    reference: Mapped[bool] = mapped_column(default=False)  # worth imitating: exported as SFT data
    meta: Mapped[dict[str, Any]] = mapped_column(default=dict)  # sampling settings, token ids, logprobs
    created_at: Mapped[datetime] = mapped_column(default=now)
    prompt: Mapped[Prompt] = relationship()


class Comparison(Base):
    """A question to annotators: which of these completions is better? Two sides; K for a ranking."""

    __tablename__ = "comparison"
    # The queue reads these backwards, one for each of its policies: only what still wants labels is in them, so
    # the next item costs the same however many there are. What was never rated comes after all that was.
    __table_args__ = (
        Index("ix_comparison_open", "priority", "shuffle", **OPEN),
        Index("ix_comparison_open_uncertainty", "priority", rated("uncertainty"), "shuffle", **OPEN),
        Index("ix_comparison_open_doubt", "priority", rated("doubt"), "shuffle", **OPEN),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)  # of prompt and completions, see hashing
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompt.id"), index=True)
    origin: Mapped[str] = mapped_column(String(64), default="rollout")  # "rollout", "import", ...
    priority: Mapped[float] = mapped_column(default=0.0)
    uncertainty: Mapped[float | None]  # written by reward ensembles or judges; read by the queue
    doubt: Mapped[float | None]  # 0..1, of the judge that judged last; 1 if its orders disagree or it failed
    slots_left: Mapped[int] = mapped_column(default=1, server_default="1")  # see labeling.queue.slots
    shuffle: Mapped[int] = mapped_column(default=0, server_default="0")  # a fixed random place, from the key
    created_at: Mapped[datetime] = mapped_column(default=now)
    prompt: Mapped[Prompt] = relationship()
    sides: Mapped[list[ComparisonSide]] = relationship(order_by="ComparisonSide.position")


class ComparisonSide(Base):
    """Position 0, 1, ... of a comparison in stored order (the order shown is recorded on each label)."""

    __tablename__ = "comparison_side"
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    completion_id: Mapped[int] = mapped_column(ForeignKey("completion.id"), index=True)
    completion: Mapped[Completion] = relationship()


class Annotator(Base):
    """Whoever labels: a person, a judge model, a scripted stand-in (always said so), or an imported source."""

    __tablename__ = "annotator"
    __table_args__ = (CheckConstraint("kind in ('human', 'judge', 'scripted', 'import')", name="kind"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    active: Mapped[bool] = mapped_column(default=True)
    meta: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Assignment(Base):
    """A comparison handed to an annotator under a lease, with its sides in the order shown.

    `round` 0 is the first time; a repeat, for self-consistency, is round 1. A lease that ran out is "expired"
    and may be given to the same annotator again; a label that is being corrected is "leased" once more.
    """

    __tablename__ = "assignment"
    __table_args__ = (
        UniqueConstraint("comparison_id", "annotator_id", "round"),
        CheckConstraint("state in ('leased', 'submitted', 'skipped', 'expired')", name="state"),
        CheckConstraint("purpose in ('label', 'gold', 'repeat', 'adjudicate')", name="purpose"),
        Index("ix_assignment_leased", "lease_until", **LEASED),
        Index("ix_assignment_annotator_id_state", "annotator_id", "state"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(43), unique=True)  # random: the only name that a page sees
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"))
    round: Mapped[int] = mapped_column(default=0)
    shown_order: Mapped[list[Any]]  # stored positions as shown, e.g. [1, 0]
    state: Mapped[str] = mapped_column(String(16), default="leased")
    purpose: Mapped[str] = mapped_column(String(16), default="label")
    policy: Mapped[str] = mapped_column(String(32), default="random")  # what chose it
    arm: Mapped[str] = mapped_column(String(16), default="")  # of an experiment: "ai-shown"
    reason: Mapped[str] = mapped_column(Text, default="")  # why it was skipped
    lease_until: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(default=now)  # when it was claimed


class Label(Base):
    """One verdict by one annotator on one comparison. Append-only: a correction names the row it supersedes."""

    __tablename__ = "label"
    __table_args__ = (
        CheckConstraint("verdict in ('preference', 'tie', 'both_bad', 'ranking')", name="verdict"),
        CheckConstraint("p_first >= 0 and p_first <= 1", name="p_first"),
        CheckConstraint("purpose in ('label', 'gold', 'repeat', 'adjudicate', 'late')", name="purpose"),
        Index("ix_label_comparison_id_annotator_id", "comparison_id", "annotator_id"),
        Index("ix_label_annotator_id_created_at", "annotator_id", "created_at"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"))
    assignment_id: Mapped[int | None] = mapped_column(ForeignKey("assignment.id"), index=True)
    purpose: Mapped[str] = mapped_column(String(16), default="label", server_default="label")
    verdict: Mapped[str] = mapped_column(String(16))
    p_first: Mapped[float]  # probability that the side at stored position 0 is the better one
    strength: Mapped[int] = mapped_column(default=0)  # 0 unknown, 1..3 slightly .. much
    shown_order: Mapped[list[Any]]  # positions as shown; a judge asked in both orders records both
    rationale: Mapped[str] = mapped_column(Text, default="")
    seconds: Mapped[float | None]
    meta: Mapped[dict[str, Any]] = mapped_column(default=dict)
    idempotency_key: Mapped[str] = mapped_column(String(64), unique=True)
    supersedes_id: Mapped[int | None] = mapped_column(ForeignKey("label.id"), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    comparison: Mapped[Comparison] = relationship()
    annotator: Mapped[Annotator] = relationship()


class Gold(Base):
    """A comparison whose answer a lead has declared, by which annotators are measured."""

    __tablename__ = "gold"
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"), primary_key=True)
    verdict: Mapped[str] = mapped_column(String(16))
    p_first: Mapped[float]  # as in Label
    note: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(default=now)


class Flag(Base):
    """An annotator's remark to the lead that something is wrong with a comparison."""

    __tablename__ = "flag"
    id: Mapped[int] = mapped_column(primary_key=True)
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"), index=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"))
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    resolved_at: Mapped[datetime | None]


class QueueSettingsRow(Base):
    """The queue's settings, in one row; see `labeling.queue.settings`."""

    __tablename__ = "queue_settings"
    id: Mapped[int] = mapped_column(primary_key=True)
    settings: Mapped[dict[str, Any]]


class JudgeBatch(Base):
    """Calls handed over together to an endpoint's batch API, recorded before it is asked to take them."""

    __tablename__ = "judge_batch"
    __table_args__ = (CheckConstraint("state in ('submitting', 'open', 'collected')", name="state"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(
        String(32), unique=True
    )  # by which a lost answer to the submission is found
    base_url: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(String(255))
    remote_id: Mapped[str] = mapped_column(String(255), default="")  # the endpoint's name of it
    state: Mapped[str] = mapped_column(String(16), default="submitting")
    status: Mapped[str] = mapped_column(String(32), default="")  # the endpoint's last word
    calls: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=now)
    collected_at: Mapped[datetime | None]


class JudgeCall(Base):
    """The ledger: one row for each paid attempt, written before sending; the reply is stored before parsing."""

    __tablename__ = "judge_call"
    __table_args__ = (
        UniqueConstraint("key", "attempt"),
        CheckConstraint("state in ('intent', 'answered', 'failed', 'uncertain')", name="state"),
        Index(
            "ix_judge_call_judge", "model", "base_url", "state", "cost"
        ),  # what a judge cost, from it alone
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(
        String(64), index=True
    )  # hash(base_url, model, messages, sampling, sample)
    attempt: Mapped[int] = mapped_column(default=1)
    base_url: Mapped[str] = mapped_column(Text, default="", server_default="")
    model: Mapped[str] = mapped_column(String(255), default="", server_default="")
    state: Mapped[str] = mapped_column(String(16), default="intent")
    cost: Mapped[int | None] = mapped_column(
        BigInteger
    )  # 1e-12 US dollars; the most it can be until it is known
    request: Mapped[dict[str, Any]]  # never a key or a header
    reply: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str] = mapped_column(Text, default="")
    batch_id: Mapped[int | None] = mapped_column(ForeignKey("judge_batch.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    answered_at: Mapped[datetime | None]


class Judgement(Base):
    """What came of asking one judge about one comparison; only verdict and tie also become labels."""

    __tablename__ = "judgement"
    __table_args__ = (
        UniqueConstraint("comparison_id", "annotator_id"),
        CheckConstraint(
            "outcome in ('verdict', 'tie', 'unparsed', 'refused', 'truncated', 'api_error')", name="outcome"
        ),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"), index=True)
    outcome: Mapped[str] = mapped_column(String(16))
    p_first: Mapped[float | None]  # mean over both orders, in stored order
    order_consistent: Mapped[bool | None]
    reason: Mapped[str] = mapped_column(Text, default="")
    routed: Mapped[str] = mapped_column(String(16), default="", server_default="")  # why people are to look
    detail: Mapped[dict[str, Any]] = mapped_column(
        default=dict, server_default="{}"
    )  # each reading; what was drawn
    call_keys: Mapped[list[Any]]
    label_id: Mapped[int | None] = mapped_column(ForeignKey("label.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)


class ImportBatch(Base):
    """An import that came to its end: what was found, added and rejected."""

    __tablename__ = "import_batch"
    id: Mapped[int] = mapped_column(primary_key=True)
    content_hash: Mapped[str] = mapped_column(String(64), default="")  # SHA-256 of a file's bytes
    path: Mapped[str] = mapped_column(Text)  # or the hub's name of it
    format: Mapped[str] = mapped_column(String(64))
    counts: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)
