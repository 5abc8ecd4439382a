"""Runs the migrations on the connection, and in the transaction, that `core.store.access` hands over."""

from alembic import context

from core.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite rolls DDL back too, given an explicit BEGIN (`core.store.database`).
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
