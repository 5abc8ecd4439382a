"""Walks with their lanes."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "walks",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("machine_id", sa.Text, sa.ForeignKey("machines.id")),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("owner", sa.Text),
    )
    op.create_index("ix_walks_created_at", "walks", ["created_at"])
    op.create_table(
        "walk_lanes",
        sa.Column("run_id", sa.Text, sa.ForeignKey("walks.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("lane_id", sa.Text, sa.ForeignKey("lanes.id"), nullable=False),
    )
