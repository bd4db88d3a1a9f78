"""The judge: what calls cost and whose they are, batches, and what each reading of a judgement said."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "judge_batch",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("remote_id", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("collected_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state in ('submitting', 'open', 'collected')", name=op.f("ck_judge_batch_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judge_batch")),
        sa.UniqueConstraint("token", name=op.f("uq_judge_batch_token")),
    )
    add_to_judge_call()
    op.add_column("judgement", sa.Column("routed", sa.String(length=16), nullable=False, server_default=""))
    op.add_column("judgement", sa.Column("detail", sa.JSON(), nullable=False, server_default="{}"))


def add_to_judge_call() -> None:
    """Columns are added in place; whose a call is stands in its request."""
    op.add_column("judge_call", sa.Column("base_url", sa.Text(), nullable=False, server_default=""))
    op.add_column("judge_call", sa.Column("model", sa.String(length=255), nullable=False, server_default=""))
    op.add_column("judge_call", sa.Column("cost", sa.BigInteger(), nullable=True))
    op.execute(
        "ALTER TABLE judge_call ADD COLUMN batch_id INTEGER "
        "CONSTRAINT fk_judge_call_batch_id_judge_batch REFERENCES judge_batch (id)"
    )
    in_request = (
        "request ->> '{}'" if op.get_bind().dialect.name == "postgresql" else "json_extract(request, '$.{}')"
    )
    for column in ("base_url", "model"):
        op.execute(
            f"UPDATE judge_call SET {column} = coalesce({in_request.format(column)}, '')"  # noqa: S608
        )
    op.create_index(op.f("ix_judge_call_batch_id"), "judge_call", ["batch_id"])
    op.create_index("ix_judge_call_judge", "judge_call", ["model", "base_url", "state", "cost"])


def downgrade() -> None:
    raise NotImplementedError("a store with batches and costs has no place in the older tables")
