"""Where the engine of a request ran, and whether a network lay between."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("requests", sa.Column("place", sa.Text))
