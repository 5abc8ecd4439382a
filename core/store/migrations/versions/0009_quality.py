"""Quality runs with their lanes and answers."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "quality_runs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("lmdyno", sa.Text, nullable=False),
        sa.Column("machine_id", sa.Text, sa.ForeignKey("machines.id")),
        sa.Column("imported", sa.Boolean, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("plan", sa.Text, nullable=False),
    )
    op.create_index("ix_quality_runs_created_at", "quality_runs", ["created_at"])
    op.create_table(
        "quality_lanes",
        _run_id(),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("lane_id", sa.Text, sa.ForeignKey("lanes.id"), nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
    )
    op.create_table(
        "quality_answers",
        _run_id(),
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("part", sa.Text, primary_key=True),
        sa.Column("item", sa.Integer, primary_key=True),
        sa.Column("repeat", sa.Integer, primary_key=True),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("finish_reason", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("token_ids", sa.Text),
        sa.Column("timing", sa.LargeBinary),
        sa.Column("text", sa.Text, nullable=False),
    )


def _run_id() -> sa.Column[str]:
    run = sa.ForeignKey("quality_runs.id", ondelete="CASCADE")
    return sa.Column("run_id", sa.Text, run, primary_key=True)
