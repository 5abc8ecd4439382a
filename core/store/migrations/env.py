"""Runs the migrations on the connection, and in the transaction, that `core.store.schema` hands over."""

from alembic import context

from core.store.sessions import tables as session_tables  # noqa: F401 - adds its tables
from core.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite rolls DDL back too, given an explicit BEGIN (`core.store.database`).
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
