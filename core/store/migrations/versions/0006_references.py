"""Indexes by which messages are removed without looking through all requests for each."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_index("ix_messages_parent_id", "messages", ["parent_id"])
    op.create_index("ix_requests_last_message_id", "requests", ["last_message_id"])
