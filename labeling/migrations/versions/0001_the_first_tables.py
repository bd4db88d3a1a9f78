"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "annotator",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("meta", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "kind in ('human', 'judge', 'scripted', 'import')", name=op.f("ck_annotator_kind")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotator")),
        sa.UniqueConstraint("name", name=op.f("uq_annotator_name")),
    )
    op.create_table(
        "import_batch",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("format", sa.String(length=64), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import_batch")),
    )
    op.create_table(
        "judge_call",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("reply", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state in ('intent', 'answered', 'failed', 'uncertain')", name=op.f("ck_judge_call_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judge_call")),
        sa.UniqueConstraint("key", "attempt", name=op.f("uq_judge_call_key_attempt")),
    )
    op.create_index(op.f("ix_judge_call_key"), "judge_call", ["key"], unique=False)
    op.create_table(
        "prompt",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("meta", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompt")),
        sa.UniqueConstraint("hash", name=op.f("uq_prompt_hash")),
    )
    op.create_table(
        "comparison",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("origin", sa.String(length=64), nullable=False),
        sa.Column("priority", sa.Double(), nullable=False),
        sa.Column("uncertainty", sa.Double(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.id"], name=op.f("fk_comparison_prompt_id_prompt")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparison")),
        sa.UniqueConstraint("key", name=op.f("uq_comparison_key")),
    )
    op.create_index(op.f("ix_comparison_prompt_id"), "comparison", ["prompt_id"], unique=False)
    op.create_table(
        "completion",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=False),
        sa.Column("finish_reason", sa.String(length=16), nullable=False),
        sa.Column("reference", sa.Boolean(), nullable=False),
        sa.Column("meta", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.id"], name=op.f("fk_completion_prompt_id_prompt")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_completion")),
        sa.UniqueConstraint("prompt_id", "hash", name=op.f("uq_completion_prompt_id_hash")),
    )
    op.create_table(
        "assignment",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=False),
        sa.Column("shown_order", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("policy", sa.String(length=32), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state in ('leased', 'submitted', 'skipped')", name=op.f("ck_assignment_state")),
        sa.ForeignKeyConstraint(
            ["annotator_id"], ["annotator.id"], name=op.f("fk_assignment_annotator_id_annotator")
        ),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f("fk_assignment_comparison_id_comparison")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assignment")),
        sa.UniqueConstraint(
            "comparison_id", "annotator_id", name=op.f("uq_assignment_comparison_id_annotator_id")
        ),
    )
    op.create_index(op.f("ix_assignment_annotator_id"), "assignment", ["annotator_id"], unique=False)
    op.create_index("ix_assignment_state_lease_until", "assignment", ["state", "lease_until"], unique=False)
    op.create_table(
        "comparison_side",
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("completion_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f("fk_comparison_side_comparison_id_comparison")
        ),
        sa.ForeignKeyConstraint(
            ["completion_id"], ["completion.id"], name=op.f("fk_comparison_side_completion_id_completion")
        ),
        sa.PrimaryKeyConstraint("comparison_id", "position", name=op.f("pk_comparison_side")),
    )
    op.create_index(
        op.f("ix_comparison_side_completion_id"), "comparison_side", ["completion_id"], unique=False
    )
    op.create_table(
        "label",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=False),
        sa.Column("assignment_id", sa.Integer(), nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("p_first", sa.Double(), nullable=False),
        sa.Column("strength", sa.Integer(), nullable=False),
        sa.Column("shown_order", sa.JSON(), nullable=False),
        sa.Column("rationale", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("meta", sa.JSON(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=64), nullable=False),
        sa.Column("supersedes_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "verdict in ('preference', 'tie', 'both_bad', 'ranking')", name=op.f("ck_label_verdict")
        ),
        sa.CheckConstraint("p_first >= 0 and p_first <= 1", name=op.f("ck_label_p_first")),
        sa.ForeignKeyConstraint(
            ["annotator_id"], ["annotator.id"], name=op.f("fk_label_annotator_id_annotator")
        ),
        sa.ForeignKeyConstraint(
            ["assignment_id"], ["assignment.id"], name=op.f("fk_label_assignment_id_assignment")
        ),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f("fk_label_comparison_id_comparison")
        ),
        sa.ForeignKeyConstraint(["supersedes_id"], ["label.id"], name=op.f("fk_label_supersedes_id_label")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_label_idempotency_key")),
        sa.UniqueConstraint("supersedes_id", name=op.f("uq_label_supersedes_id")),
    )
    op.create_index(op.f("ix_label_annotator_id"), "label", ["annotator_id"], unique=False)
    op.create_index(
        "ix_label_comparison_id_annotator_id", "label", ["comparison_id", "annotator_id"], unique=False
    )
    op.create_table(
        "judgement",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("p_first", sa.Double(), nullable=True),
        sa.Column("order_consistent", sa.Boolean(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("call_keys", sa.JSON(), nullable=False),
        sa.Column("label_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "outcome in ('verdict', 'tie', 'unparsed', 'refused', 'truncated', 'api_error')",
            name=op.f("ck_judgement_outcome"),
        ),
        sa.ForeignKeyConstraint(
            ["annotator_id"], ["annotator.id"], name=op.f("fk_judgement_annotator_id_annotator")
        ),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f("fk_judgement_comparison_id_comparison")
        ),
        sa.ForeignKeyConstraint(["label_id"], ["label.id"], name=op.f("fk_judgement_label_id_label")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judgement")),
        sa.UniqueConstraint(
            "comparison_id", "annotator_id", name=op.f("uq_judgement_comparison_id_annotator_id")
        ),
    )
    op.create_index(op.f("ix_judgement_annotator_id"), "judgement", ["annotator_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_judgement_annotator_id"), table_name="judgement")
    op.drop_table("judgement")
    op.drop_index("ix_label_comparison_id_annotator_id", table_name="label")
    op.drop_index(op.f("ix_label_annotator_id"), table_name="label")
    op.drop_table("label")
    op.drop_index(op.f("ix_comparison_side_completion_id"), table_name="comparison_side")
    op.drop_table("comparison_side")
    op.drop_index("ix_assignment_state_lease_until", table_name="assignment")
    op.drop_index(op.f("ix_assignment_annotator_id"), table_name="assignment")
    op.drop_table("assignment")
    op.drop_table("completion")
    op.drop_index(op.f("ix_comparison_prompt_id"), table_name="comparison")
    op.drop_table("comparison")
    op.drop_table("prompt")
    op.drop_index(op.f("ix_judge_call_key"), table_name="judge_call")
    op.drop_table("judge_call")
    op.drop_table("import_batch")
    op.drop_table("annotator")
