"""New stores for tests, without each of them going through all migrations again."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, inspect

from core.store import access
from core.store.database import Location

_migrate = access._migrate
_SHIPPED = access.SCRIPTS


@contextmanager
def migrated_once() -> Iterator[None]:
    """SQLite files get the schema that the first one of this process had after all migrations.

    An older schema is still migrated, and so is everything else than SQLite.
    """
    statements: list[str] = []

    def create(connection: Connection, location: Location) -> None:
        is_shipped = access.SCRIPTS == _SHIPPED
        if location.file is None or not is_shipped or inspect(connection).get_table_names():
            _migrate(connection, location)
        elif statements:
            for statement in statements:
                connection.exec_driver_sql(statement)
        else:
            _migrate(connection, location)
            statements.extend(_statements(connection))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access, "_migrate", create)
        yield


@contextmanager
def migrated_each_time() -> Iterator[None]:
    """For tests of the migrations themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access, "_migrate", _migrate)
        yield


def empty_postgresql(url: str) -> None:
    """Remove all rows of a store on a PostgreSQL server, and keep its schema."""
    import psycopg

    with psycopg.connect(url, autocommit=True, options="-c lock_timeout=30s") as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        ).fetchall()
        # As a replica it checks no foreign keys, so that the order doesn't matter.
        deletions = "; ".join(f'DELETE FROM "{table}"' for (table,) in tables)
        connection.execute(f"SET session_replication_role = replica; {deletions}")


def _statements(connection: Connection) -> list[str]:
    """What makes the schema of this SQLite database, and notes its revision."""
    made = connection.exec_driver_sql(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' "
        "ORDER BY type = 'table' DESC, rowid"
    )
    statements = [sql for (sql,) in made]
    ((revision,),) = connection.exec_driver_sql("SELECT version_num FROM alembic_version").all()
    return [*statements, f"INSERT INTO alembic_version VALUES ('{revision}')"]
