"""The connection to the store's database, opened when it is first needed."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

from sqlalchemy import Connection, Engine, Executable, Table
from sqlalchemy.dialects import postgresql, sqlite

from core.access.guard import require_writable
from core.store import schema
from core.store.database import connect, for_writing, prepare_file
from core.store.failures import explained
from core.store.location import Location, parse_location


class Access:
    """Base of everything that reads or writes the database; turns its errors into StoreError.

    Thread-safe, and safe with other processes on the same database.
    """

    def __init__(self, database_url: str, *, lock_timeout_s: float = 5.0) -> None:
        """Remember where the store is; no file and no server is touched.

        `lock_timeout_s` is how long a statement waits for another program's lock.
        """
        self._database_url = database_url
        self._lock_timeout_s = lock_timeout_s
        self._opening = threading.Lock()
        self._database: _Database | None = None

    def open(self) -> None:
        """Create the database or migrate it to this version's schema; does nothing if it is open."""
        self._opened()

    def close(self) -> None:
        """Let go of the database's connections; the next use opens it again."""
        with self._opening:
            if self._database:
                self._database.engine.dispose()
                self._database = None

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        database = self._opened()
        with explained(database.location), database.engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        require_writable()
        database = self._opened()
        with explained(database.location), for_writing(database.engine).begin() as connection:
            yield connection

    def _opened(self) -> "_Database":
        with self._opening:
            if self._database is None:
                self._database = _open(self._database_url, self._lock_timeout_s)
            return self._database


class _Database(NamedTuple):
    engine: Engine
    location: Location


def _open(database_url: str, lock_timeout_s: float) -> _Database:
    location = parse_location(database_url)
    with explained(location):
        if location.file:
            prepare_file(location.file, lock_timeout_s=lock_timeout_s)
        engine = connect(location, lock_timeout_s=lock_timeout_s)
        try:
            schema.upgrade(engine, location)
        except BaseException:
            engine.dispose()
            raise
    return _Database(engine, location)


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert those of the rows whose primary key is not there yet."""
    if rows:
        is_sqlite = connection.dialect.name == "sqlite"
        insert = sqlite.insert(table) if is_sqlite else postgresql.insert(table)
        keys = [column.name for column in table.primary_key]
        connection.execute(insert.on_conflict_do_nothing(index_elements=keys), rows)


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert the rows, or replace those whose primary key is there already."""
    if not rows:
        return
    statement = _upsert(table, tuple(rows[0]), is_sqlite=connection.dialect.name == "sqlite")
    connection.execute(statement, rows)


@cache
def _upsert(table: Table, names: tuple[str, ...], *, is_sqlite: bool) -> Executable:
    """Kept, since making it takes longer than executing it."""
    insert = sqlite.insert(table) if is_sqlite else postgresql.insert(table)
    keys = [column.name for column in table.primary_key]
    changed = {name: insert.excluded[name] for name in names if name not in keys}
    return insert.on_conflict_do_update(index_elements=keys, set_=changed)
