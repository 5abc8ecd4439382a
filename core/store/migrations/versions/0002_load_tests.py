"""Load tests with their requests, and what people write to turns and load tests."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("ix_turns_created_at", "turns", ["created_at"])
    op.create_table(
        "annotations",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("item_id", sa.Text, primary_key=True),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("tag", sa.Text, nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
    )
    op.create_table(
        "bench_runs",
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
    op.create_index("ix_bench_runs_created_at", "bench_runs", ["created_at"])
    _create_parts()


def _create_parts() -> None:
    op.create_table(
        "bench_lanes",
        _run_id(),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("lane_id", sa.Text, sa.ForeignKey("lanes.id"), nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
    )
    op.create_table(
        "bench_passes",
        _run_id(),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("facts", sa.Text, nullable=False),
    )
    op.create_table(
        "bench_requests",
        _run_id(),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("pass_number", sa.Integer, nullable=False),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("warmup", sa.Boolean, nullable=False),
        sa.Column("planned_ns", sa.BigInteger),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("cached_tokens", sa.Integer),
        sa.Column("finish_reason", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("timing", sa.LargeBinary),
    )


def _run_id() -> sa.Column[str]:
    run = sa.ForeignKey("bench_runs.id", ondelete="CASCADE")
    return sa.Column("run_id", sa.Text, run, primary_key=True)
