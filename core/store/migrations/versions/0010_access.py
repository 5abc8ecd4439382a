"""Whose turns and runs are, who stopped an answer, and the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("turns", sa.Column("owner", sa.Text))
    op.add_column("bench_runs", sa.Column("owner", sa.Text))
    op.add_column("quality_runs", sa.Column("owner", sa.Text))
    op.add_column("requests", sa.Column("stopped_by", sa.Text))
    op.create_index("ix_turns_owner_created_at", "turns", ["owner", "created_at"])
    op.create_index("ix_bench_runs_owner_created_at", "bench_runs", ["owner", "created_at"])
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("allowed", sa.Boolean, nullable=False),
    )
    op.create_index("ix_audit_at", "audit", ["at"])
