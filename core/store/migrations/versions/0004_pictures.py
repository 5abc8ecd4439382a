"""Pictures of turns and messages; what describes them, not their bytes."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("turns", sa.Column("pictures", sa.Text))
    op.add_column("messages", sa.Column("pictures", sa.Text))
