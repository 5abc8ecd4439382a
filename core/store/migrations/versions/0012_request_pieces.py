"""Answers that run are kept in pieces. Those stored so far stay as they are: whole."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "request_pieces",
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("first_chunk", sa.Integer, nullable=False),
        sa.Column("timing", sa.LargeBinary),
        sa.Column("reasoning", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("request_id", "first_chunk", name="pk_request_pieces"),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["requests.id"],
            name="fk_request_pieces_request_id",
            ondelete="CASCADE",
        ),
    )
