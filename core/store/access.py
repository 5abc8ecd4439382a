"""The way into the store's database: opened when it is first needed, its schema brought up to date once.

Whichever process comes first brings the schema to the one this code knows. What whoever acts may see are
conditions on the column that holds the owner.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Executable,
    Table,
    false,
    func,
    inspect,
    select,
    text,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from core.access.guard import current_identity, require_writable
from core.access.identity import Visibility
from core.errors import StoreError
from core.i18n import N_
from core.store.database import (
    OTHER,
    Location,
    connect,
    copy_file,
    explain,
    explained,
    for_writing,
    parse_location,
    prepare_file,
)

SCRIPTS = Path(__file__).parent / "migrations"
_WAIT_S = 60.0
_ADVISORY_LOCK = 0x6C6D64796E6F  # "lmdyno"

# Alembic hands the running migration around in module globals.
_one_at_a_time = threading.Lock()


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
            upgrade(engine, location)
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


def upgrade(engine: Engine, location: Location) -> None:
    """Create or migrate the schema; quick and without a lock if it is the current one.

    All in one transaction that only one process enters at a time, so a failed migration changes nothing.
    Before an older SQLite schema is migrated, the database is copied to `<file>.schema-<revision>.bak`.
    Raises StoreError for a schema newer than this code.
    """
    with engine.connect() as connection:
        if _is_current(connection, location):
            return
    migration_engine = connect(location, lock_timeout_s=_WAIT_S, for_migration=True)
    with _one_at_a_time, for_writing(migration_engine).begin() as connection:
        if location.file is None:
            connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        if _is_current(connection, location):  # another process was first
            return
        _back_up(connection, location)
        _migrate(connection, location)


def _is_current(connection: Connection, location: Location) -> bool:
    revision = _revision(connection)
    if revision is None:
        return False
    known = known_revisions()
    if revision not in known:
        raise StoreError(
            N_(
                "A newer version of LMDyno wrote the database: {place} has schema {revision}, but this "
                "version "
                "supports only schemas up to {known}.",
                place=location,
                revision=revision,
                known=known[-1],
            ),
            hint=N_("Update LMDyno, or set LMDYNO_HOME or LMDYNO_DATABASE_URL to another location."),
            code="store-newer-schema",
        )
    return revision == known[-1]


def known_revisions() -> list[str]:
    """The revisions of the schema, oldest first: the name of a migration's file begins with its revision."""
    return sorted(path.name.partition("_")[0] for path in (SCRIPTS / "versions").glob("*.py"))


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def _back_up(connection: Connection, location: Location) -> None:
    revision = _revision(connection)
    if location.file and revision:
        copy_file(
            location.file,
            location.file.with_name(f"{location.file.name}.schema-{revision}.bak"),
        )


def _migrate(connection: Connection, location: Location) -> None:
    # Alembic takes a while to import, and most processes find the current schema.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
        if location.file and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
            raise CommandError("a migration left rows that refer to nothing")
    except (SQLAlchemyError, CommandError) as exc:
        if isinstance(exc, SQLAlchemyError):
            known = explain(exc, location)
            if known.code != OTHER.code:
                raise known from exc
        raise StoreError(
            N_("Can't upgrade the database: {place} ({detail}).", place=location, detail=exc),
            hint=N_("Nothing was changed. Use the version of LMDyno that wrote it, and report this message."),
            code="store-upgrade-failed",
        ) from exc


def listed(owner: Column[str]) -> ColumnElement[bool]:
    """Rows that lists show: all, or only one's own."""
    return _own_unless(owner, Visibility.ALL)


def by_link(owner: Column[str]) -> ColumnElement[bool]:
    """Rows that are shown to those who have their address."""
    return _own_unless(owner, Visibility.ALL, Visibility.LINK)


def _own_unless(owner: Column[str], *sufficient: Visibility) -> ColumnElement[bool]:
    identity = current_identity()
    if identity.role is None:
        return false()
    return true() if identity.sees in sufficient else owner == identity.owner
