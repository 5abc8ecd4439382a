"""Quizzes and memory sweeps with their lanes."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    _create("quizzes", "quiz_lanes")
    _create("sweeps", "sweep_lanes")


def _create(runs: str, run_lanes: str) -> None:
    op.create_table(
        runs,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("machine_id", sa.Text, sa.ForeignKey("machines.id")),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("owner", sa.Text),
    )
    op.create_index(f"ix_{runs}_created_at", runs, ["created_at"])
    op.create_table(
        run_lanes,
        sa.Column("run_id", sa.Text, sa.ForeignKey(f"{runs}.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("lane_id", sa.Text, sa.ForeignKey("lanes.id"), nullable=False),
    )
