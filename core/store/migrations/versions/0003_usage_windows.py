"""Memory, power and energy of the machine while a request ran."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("requests", sa.Column("usage_window", sa.Text))
