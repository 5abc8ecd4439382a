"""Turns, their requests, and the lanes, machines and messages that these share."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _create_shared()
    op.create_table(
        "turns",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("replaces", sa.Text),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("sampling", sa.Text, nullable=False),
        sa.Column("machine_id", sa.Text, sa.ForeignKey("machines.id")),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("system_prompt", sa.Text, nullable=False),
    )
    op.create_index("ix_turns_replaces", "turns", ["replaces"])
    op.create_index("ix_turns_conversation_id_created_at", "turns", ["conversation_id", "created_at"])
    _create_requests()


def _create_shared() -> None:
    op.create_table(
        "machines",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
    )
    op.create_table(
        "lanes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("spec", sa.Text, nullable=False),
    )
    op.create_table(
        "messages",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("parent_id", sa.Text, sa.ForeignKey("messages.id")),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
    )


def _create_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.id", ondelete="CASCADE"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("lane_id", sa.Text, sa.ForeignKey("lanes.id"), nullable=False),
        sa.Column("last_message_id", sa.Text, sa.ForeignKey("messages.id")),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("engine_version", sa.Text),
        sa.Column("device", sa.Text),
        sa.Column("served_model", sa.Text),
        sa.Column("sent_at", sa.DateTime(timezone=True)),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("cached_tokens", sa.Integer),
        sa.Column("finish_reason", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("timing", sa.LargeBinary),
        sa.Column("reasoning", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.UniqueConstraint("turn_id", "position"),
    )
    op.create_index(
        "ix_requests_open",
        "requests",
        ["updated_at"],
        sqlite_where=sa.text("phase <> 'done'"),
        postgresql_where=sa.text("phase <> 'done'"),
    )
