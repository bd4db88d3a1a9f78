"""The queue: slots, leases with a token and a purpose, gold, flags and settings."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

OPEN: dict[str, Any] = {
    "sqlite_where": sa.text("slots_left > 0"),
    "postgresql_where": sa.text("slots_left > 0"),
}


def upgrade() -> None:
    add_to_assignment()
    add_queue_tables()
    add_to_comparison()
    add_to_label()


def add_queue_tables() -> None:
    op.create_table(
        "gold",
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("p_first", sa.Double(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f("fk_gold_comparison_id_comparison")
        ),
        sa.PrimaryKeyConstraint("comparison_id", name=op.f("pk_gold")),
    )
    op.create_table(
        "flag",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f("fk_flag_comparison_id_comparison")
        ),
        sa.ForeignKeyConstraint(
            ["annotator_id"], ["annotator.id"], name=op.f("fk_flag_annotator_id_annotator")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_flag")),
    )
    op.create_index(op.f("ix_flag_comparison_id"), "flag", ["comparison_id"], unique=False)
    op.create_table(
        "queue_settings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue_settings")),
    )


def add_to_comparison() -> None:
    """Columns are added in place, and the indexes come last: a million rows take seconds."""
    op.add_column("comparison", sa.Column("doubt", sa.Double(), nullable=True))
    op.add_column("comparison", sa.Column("slots_left", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("comparison", sa.Column("shuffle", sa.Integer(), nullable=False, server_default="0"))
    bind = op.get_bind()
    if bind.dialect.name == "postgresql":
        shuffle = "('x' || substr(key, 1, 8))::bit(32)::int & 2147483647"
    else:
        driver: Any = bind.connection.driver_connection
        driver.create_function("align_shuffle", 1, lambda key: int(key[:8], 16) & 0x7FFFFFFF)
        shuffle = "align_shuffle(key)"
    op.execute(
        f"UPDATE comparison SET shuffle = {shuffle}, slots_left = CASE WHEN EXISTS ("  # noqa: S608
        "SELECT 1 FROM label JOIN annotator ON annotator.id = label.annotator_id "
        "WHERE label.comparison_id = comparison.id AND annotator.kind IN ('human', 'scripted')"
        ") THEN 0 ELSE 1 END, doubt = (SELECT max(CASE WHEN p_first IS NULL OR NOT order_consistent "
        "THEN 1.0 ELSE 1.0 - abs(2 * p_first - 1) END) "
        "FROM judgement WHERE judgement.comparison_id = comparison.id)"
    )
    op.create_index("ix_comparison_open", "comparison", ["priority", "shuffle"], **OPEN)
    for rating in ("uncertainty", "doubt"):
        columns: list[Any] = ["priority", sa.text(f"coalesce({rating}, -1.0)"), "shuffle"]
        op.create_index(f"ix_comparison_open_{rating}", "comparison", columns, **OPEN)


def add_to_label() -> None:
    op.execute(
        "ALTER TABLE label ADD COLUMN purpose VARCHAR(16) DEFAULT 'label' NOT NULL CONSTRAINT "
        "ck_label_purpose CHECK (purpose in ('label', 'gold', 'repeat', 'adjudicate', 'late'))"
    )
    op.drop_index(op.f("ix_label_annotator_id"), table_name="label")
    op.create_index("ix_label_annotator_id_created_at", "label", ["annotator_id", "created_at"])
    op.create_index(op.f("ix_label_assignment_id"), "label", ["assignment_id"])


def add_to_assignment() -> None:
    """Until now nothing wrote assignments: rows, if any, keep their id as their token."""
    op.drop_index(op.f("ix_assignment_annotator_id"), table_name="assignment")
    with op.batch_alter_table("assignment") as table:
        table.add_column(sa.Column("token", sa.String(length=43), nullable=True))
        table.add_column(sa.Column("round", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("purpose", sa.String(length=16), nullable=False, server_default="label"))
        table.add_column(sa.Column("arm", sa.String(length=16), nullable=False, server_default=""))
        table.add_column(sa.Column("reason", sa.Text(), nullable=False, server_default=""))
        table.drop_constraint("uq_assignment_comparison_id_annotator_id", type_="unique")
        table.create_unique_constraint(
            op.f("uq_assignment_comparison_id_annotator_id_round"), ["comparison_id", "annotator_id", "round"]
        )
        table.drop_constraint(op.f("ck_assignment_state"), type_="check")
        table.create_check_constraint(
            op.f("ck_assignment_state"), "state in ('leased', 'submitted', 'skipped', 'expired')"
        )
        table.create_check_constraint(
            op.f("ck_assignment_purpose"), "purpose in ('label', 'gold', 'repeat', 'adjudicate')"
        )
    op.execute("UPDATE assignment SET token = CAST(id AS VARCHAR(43))")
    with op.batch_alter_table("assignment") as table:
        table.alter_column("token", nullable=False)
        table.create_unique_constraint(op.f("uq_assignment_token"), ["token"])
    leased = sa.text("state = 'leased'")
    op.drop_index("ix_assignment_state_lease_until", table_name="assignment")
    op.create_index(
        "ix_assignment_leased", "assignment", ["lease_until"], sqlite_where=leased, postgresql_where=leased
    )
    op.create_index("ix_assignment_annotator_id_state", "assignment", ["annotator_id", "state"])


def downgrade() -> None:
    raise NotImplementedError("a store with queue labels has no place in the older tables")
