"""Evaluation sessions: prompt sets, sessions, answers, participants, votes and judgements."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "prompt_sets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("prompts", sa.Text, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("link", sa.Text, nullable=False, unique=True),
        sa.Column("created_at", moment, nullable=False, index=True),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("opened_at", moment),
        sa.Column("closed_at", moment),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("imported", sa.Boolean, nullable=False),
        sa.Column("machine_id", sa.Text, sa.ForeignKey("machines.id")),
        sa.Column("identical_pairs", sa.Integer, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("items", sa.Text, nullable=False),
    )
    op.create_table(
        "session_answers",
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("prompt", sa.Integer, primary_key=True),
        sa.Column("lane", sa.Integer, primary_key=True),
        sa.Column("sample", sa.Integer, primary_key=True),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.create_table(
        "session_participants",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
        sa.Column("joined_at", moment, nullable=False),
        sa.Column("seat", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("name_key", sa.Text, nullable=False),
        sa.Column("user", sa.Text),
        sa.Column("code", sa.Text, nullable=False),
        *(sa.UniqueConstraint("session_id", column) for column in ("seat", "name_key", "user", "code")),
    )
    op.create_table(
        "session_votes",
        sa.Column(
            "participant_id",
            sa.Text,
            sa.ForeignKey("session_participants.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("item", sa.Integer, primary_key=True),
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
        sa.Column("given_at", moment, nullable=False),
        sa.Column("took_s", sa.Float),
        sa.Column("shown", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("preference", sa.Text, nullable=False),
        sa.Column("reasons", sa.Text, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("deploy", sa.Text),
        sa.Column("deploy_preference", sa.Text),
    )
    op.create_index("ix_session_votes_session_id_given_at", "session_votes", ["session_id", "given_at"])
    op.create_table(
        "session_judgements",
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("judge", sa.Text, primary_key=True),
        sa.Column("item", sa.Integer, primary_key=True),
        sa.Column("turned", sa.Boolean, primary_key=True),
        sa.Column("given_at", moment, nullable=False),
        sa.Column("verdict", sa.Text),
        sa.Column("preference", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("text", sa.Text, nullable=False),
    )
